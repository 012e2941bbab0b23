// Asks the predictor for predictions: reads JSON objects, one a line, and prints the answers.
//
//	go run . -timeout 5s < requests.jsonl
//
// A line of the input is the "data" of a request. All are asked at once (up to 1,000 at a time), so
// answers come in any order: "line" says which one an answer belongs to. KAFKA_HOST and TOPIC_PREFIX
// are those of the pipeline; its topics must exist.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	atOnce       = 1_000   // requests
	longestLine  = 1 << 20 // bytes; Kafka takes no larger records
	startTimeout = 30 * time.Second
)

type answer struct {
	Line int `json:"line"`
	*Prediction
	Error string `json:"error,omitempty"`
}

func setting(name, value string) string {
	if found := os.Getenv(name); found != "" {
		return found
	}
	return value
}

func main() {
	log.SetFlags(0)
	timeout := flag.Duration("timeout", 5*time.Second, "how long to wait for an answer")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "Reads JSON objects, one a line, and predicts each.")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := predictLines(ctx, *timeout)
	if ctx.Err() != nil {
		os.Exit(130) // Ctrl-C or SIGTERM
	}
	if err != nil {
		log.Fatal(err)
	}
}

func predictLines(ctx context.Context, timeout time.Duration) error {
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	hosts := strings.Split(setting("KAFKA_HOST", "localhost:9092"), ",")
	client, err := NewClient(starting, hosts, setting("TOPIC_PREFIX", "")+"app_messages")
	if err != nil {
		return err
	}
	defer client.Close()
	lines, output := make(chan string), make(chan answer)
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, longestLine)
	go func() {
		defer close(lines)
		for ctx.Err() == nil && input.Scan() {
			lines <- input.Text()
		}
	}()
	go predictAll(ctx, client, timeout, lines, output)
	encoder := json.NewEncoder(os.Stdout)
	for each := range output {
		if err := encoder.Encode(each); err != nil {
			return err
		}
	}
	return input.Err()
}

// predictAll asks for a prediction for each line, and closes output after the last answer.
func predictAll(
	ctx context.Context, client *Client, timeout time.Duration, lines <-chan string, output chan<- answer,
) {
	defer close(output)
	var group sync.WaitGroup
	defer group.Wait()
	slots := make(chan struct{}, atOnce)
	for number := 0; ; number++ {
		select {
		case <-ctx.Done():
			return
		case line, more := <-lines:
			if !more {
				return
			}
			slots <- struct{}{}
			group.Go(func() {
				defer func() { <-slots }()
				waiting, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				output <- ask(waiting, client, number, line)
			})
		}
	}
}

func ask(ctx context.Context, client *Client, number int, line string) answer {
	if !json.Valid([]byte(line)) {
		return answer{Line: number, Error: "not valid JSON"}
	}
	prediction, err := client.Predict(ctx, json.RawMessage(line))
	if err != nil {
		return answer{Line: number, Error: err.Error()}
	}
	return answer{Line: number, Prediction: &prediction}
}
