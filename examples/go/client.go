// A request/reply client over Kafka: Predict sends a request and returns the prediction for it.

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	mathrand "math/rand/v2"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// MaxWaiting is the number of requests that may wait for their answers at a time.
const MaxWaiting = 10_000

// ErrBusy says that MaxWaiting requests wait already, ErrClosed that the client was closed.
var (
	ErrBusy   = errors.New("too many requests wait for an answer")
	ErrClosed = errors.New("the client was closed")
)

// InvalidRequest says why the predictor refused a request.
type InvalidRequest struct{ Reason string }

func (e InvalidRequest) Error() string { return e.Reason }

// Prediction is the answer to a request; the README of the project describes its fields.
type Prediction struct {
	RequestID     string             `json:"request_id"`
	Prediction    json.RawMessage    `json:"prediction"` // a number, or the name of a class
	Probability   *float64           `json:"probability,omitempty"`
	Probabilities map[string]float64 `json:"probabilities,omitempty"`
	ModelID       *int64             `json:"model_id,omitempty"`
}

type message struct {
	Prediction
	Data  json.RawMessage `json:"data"` // of a request
	Error *string         `json:"error"`
}

// Client sends requests and receives their answers. It is safe for concurrent use.
type Client struct {
	kafka      *kgo.Client
	topic      string
	partitions []int32
	mutex      sync.Mutex
	waiting    map[string]chan message // by request_id
	closed     chan struct{}
	closing    sync.Once
}

// NewClient returns a client that reads every partition of the topic from its end on.
func NewClient(ctx context.Context, hosts []string, topic string) (*Client, error) {
	kafka, err := kgo.NewClient(
		kgo.SeedBrokers(hosts...),
		// A prediction becomes visible when its transaction commits, and never if that is aborted.
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
	)
	if err != nil {
		return nil, err
	}
	// The ends must be known before the first request: an answer before them would be missed.
	ends, err := kadm.NewClient(kafka).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		kafka.Close()
		return nil, fmt.Errorf("topic %s: %w", topic, err)
	}
	client := &Client{
		kafka: kafka, topic: topic, waiting: map[string]chan message{}, closed: make(chan struct{}),
	}
	ends.Each(func(end kadm.ListedOffset) {
		client.partitions = append(client.partitions, end.Partition)
	})
	kafka.AddConsumePartitions(ends.KOffsets())
	go client.read()
	return client, nil
}

// Predict sends data as a request and waits for its answer until the context ends. The error is an
// InvalidRequest if the predictor refuses the data. An answer that comes later is dropped.
func (c *Client) Predict(ctx context.Context, data json.RawMessage) (Prediction, error) {
	requestID, answer := rand.Text(), make(chan message, 1)
	value, err := json.Marshal(map[string]any{"request_id": requestID, "data": data})
	if err != nil {
		return Prediction{}, err
	}
	if !c.wait(requestID, answer) {
		return Prediction{}, ErrBusy
	}
	defer c.take(requestID)
	// The answer comes on the request's partition, so the request goes to one that is read.
	partition := c.partitions[mathrand.IntN(len(c.partitions))]
	record := &kgo.Record{Topic: c.topic, Partition: partition, Value: value}
	failed := make(chan error, 1)
	// Not ProduceSync, which would wait beyond the context for a Kafka that does not answer.
	c.kafka.TryProduce(ctx, record, func(_ *kgo.Record, err error) {
		if err != nil {
			failed <- err
		}
	})
	select {
	case reply := <-answer:
		if reply.Error != nil {
			return Prediction{}, InvalidRequest{*reply.Error}
		}
		return reply.Prediction, nil
	case err := <-failed:
		return Prediction{}, fmt.Errorf("the request was not sent: %w", err)
	case <-ctx.Done():
		return Prediction{}, fmt.Errorf("no answer: %w", ctx.Err())
	case <-c.closed:
		return Prediction{}, ErrClosed
	}
}

// Close ends the client; whoever waits for an answer gets an error.
func (c *Client) Close() {
	c.closing.Do(func() {
		close(c.closed)
		c.kafka.Close()
	})
}

func (c *Client) wait(requestID string, answer chan message) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if len(c.waiting) >= MaxWaiting {
		return false
	}
	c.waiting[requestID] = answer
	return true
}

// take returns who waits for an answer, once.
func (c *Client) take(requestID string) chan message {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	answer := c.waiting[requestID]
	delete(c.waiting, requestID)
	return answer
}

func (c *Client) read() {
	for {
		fetches := c.kafka.PollFetches(context.Background())
		if fetches.IsClientClosed() {
			return
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Printf("%s-%d: %v", topic, partition, err) // the library tries again
		})
		fetches.EachRecord(func(record *kgo.Record) {
			var reply message
			if json.Unmarshal(record.Value, &reply) != nil || reply.Data != nil {
				return // a request, or nothing that we understand
			}
			if answer := c.take(reply.RequestID); answer != nil {
				answer <- reply
			}
		})
	}
}
