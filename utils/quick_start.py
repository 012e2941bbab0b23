"""Imports LightGBM without scikit-learn, pandas and what those bring: a second less at each start.

Imported first by the scripts that do not train themselves. LightGBM takes both only where they are
installed, and needs neither for a Booster's predictions; it can't tell the difference. Whoever
imports them later, gets them.
"""

import sys

_ABSENT = {name: None for name in ("sklearn", "pandas", "pyarrow") if name not in sys.modules}

sys.modules.update(_ABSENT)  # None makes an import fail (the import system's reference, 5.3.1)
try:
    import lightgbm  # noqa: F401
finally:
    for name in _ABSENT:
        del sys.modules[name]
