"""How the pipeline is doing: reads what any observer could read, and disturbs nobody."""
