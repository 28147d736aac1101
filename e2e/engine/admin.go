package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Admin connects to one of the nodes that answer, past all lines to them, and calls f with a
// context that ends after the timeout.
func (c *Cluster) Admin(timeout time.Duration, f func(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var errs []error
	for _, n := range c.Nodes {
		nc, err := nats.Connect(n.URL(), nats.Timeout(time.Second), nats.NoReconnect())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		return f(ctx, nc, js)
	}
	return errors.Join(errs...)
}

// AwaitReady returns when the cluster answers what JetStream is asked.
func (c *Cluster) AwaitReady() error {
	var err error
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		err = c.Admin(2*time.Second, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
			_, err := js.AccountInfo(ctx)
			return err
		})
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("the cluster is not ready after %v: %w", startTimeout, err)
}

// Roles returns the node that leads a stream, and those that follow it. With one node that
// is the leader.
func (c *Cluster) Roles(stream string) (leader *Node, followers []*Node, err error) {
	if len(c.Nodes) == 1 {
		return c.Nodes[0], nil, nil
	}
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var name string
		err = c.Admin(2*time.Second, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			name = s.CachedInfo().Cluster.Leader
			return nil
		})
		leader, followers = nil, nil
		for _, n := range c.Nodes {
			if n.Name == name {
				leader = n
			} else {
				followers = append(followers, n)
			}
		}
		if err == nil && leader != nil {
			return leader, followers, nil
		}
	}
	return nil, nil, fmt.Errorf("the stream %s has no leader after %v: %w", stream, startTimeout, err)
}

// AwaitCurrent returns when a stream has a leader and all its followers have what it has.
func (c *Cluster) AwaitCurrent(stream string) error {
	var err error
	for deadline := time.Now().Add(2 * startTimeout); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		err = c.Admin(2*time.Second, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			cluster := s.CachedInfo().Cluster
			if len(c.Nodes) > 1 && cluster.Leader == "" {
				return errors.New("no leader")
			}
			for _, r := range cluster.Replicas {
				if !r.Current || r.Offline {
					return fmt.Errorf("%s is not current", r.Name)
				}
			}
			return nil
		})
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("the stream %s: %w", stream, err)
}
