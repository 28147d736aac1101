package engine

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What is stored outlives every node, one node of three may be cut off, and two may not.
func TestCluster(t *testing.T) {
	program, err := Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(program, t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	publish := func(at *Node) error {
		return (&Cluster{Nodes: []*Node{at}}).Admin(3*time.Second, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
			_, err := js.Publish(ctx, "test", []byte("hello"))
			return err
		})
	}
	must(c.Admin(10*time.Second, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "test", Replicas: 3})
		return err
	}))
	must(c.AwaitCurrent("test"))
	must(publish(c.Nodes[0]))

	leader, followers, err := c.Roles("test")
	must(err)
	for _, l := range c.Routes(followers[0]) {
		l.Cut()
	}
	if err := publish(leader); err != nil {
		t.Errorf("one of three is cut off: %v", err)
	}
	if hears(t, followers[0], leader) {
		t.Error("a node is cut off, and there is a way to it")
	}
	for _, l := range c.Routes(followers[0]) {
		must(l.Mend())
	}
	must(c.AwaitCurrent("test"))
	if !hears(t, followers[0], leader) {
		t.Error("the lines are mended, and there is no way to the node")
	}

	for _, n := range followers {
		n.Freeze()
	}
	publish(leader) // the signal may take a moment to arrive
	if err := publish(leader); err == nil {
		t.Error("two of three are frozen, and a message is acknowledged")
	}
	for _, n := range followers {
		n.Thaw()
	}
	must(c.AwaitCurrent("test"))
	c.Kill()
	for _, n := range c.Nodes {
		must(n.Start())
	}
	must(c.AwaitReady())
	must(c.AwaitCurrent("test"))
	must(c.Admin(5*time.Second, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, "test")
		if err == nil && s.CachedInfo().State.Msgs < 2 {
			t.Errorf("%d messages are there after all nodes were killed, want 2 or more", s.CachedInfo().State.Msgs)
		}
		return err
	}))
}

// hears reports whether what is published at one node arrives at a subscriber of the other.
func hears(t *testing.T, to, from *Node) bool {
	t.Helper()
	subscriber, err := nats.Connect(to.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Close()
	publisher, err := nats.Connect(from.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	s, err := subscriber.SubscribeSync("hears")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		publisher.Publish("hears", nil)
		if _, err := s.NextMsg(100 * time.Millisecond); err == nil {
			return true
		}
	}
	return false
}

// A line can be made while processes start: for a moment each of them has a copy of the listeners
// that the test has open.
func TestLinesWhileProcessesStart(t *testing.T) {
	stop := make(chan bool)
	var starting sync.WaitGroup
	for range 4 {
		starting.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					exec.Command(os.Args[0], "-test.run=^$").Run()
				}
			}
		})
	}
	for range 200 {
		l, err := NewLine("127.0.0.1:1")
		if err != nil {
			t.Error(err)
			break
		}
		l.Close()
	}
	close(stop)
	starting.Wait()
}
