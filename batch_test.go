package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/metrics"
	"chat/internal/protocol"
	"chat/internal/ratelog"
)

// awaitEnd waits until the hold is to end, as the hub does.
func awaitEnd(c *coalescer) {
	select {
	case <-c.written:
	case <-c.timer.C:
	}
}

// When most clients were written a batch, the hold ends: at once if that took little
// time, after a third of it more if it took longer, and after maxHold in any case.
func TestHold(t *testing.T) {
	for _, row := range []struct {
		clients int
		written int           // of these
		after   time.Duration // from the beginning
		want    time.Duration // until the hold ends
	}{
		{1, 1, 0, 0},
		{2, 1, 3*minHold - 1, 3*minHold - 1},
		{2, 1, 3 * minHold, 4 * minHold},
		{2, 1, 6 * time.Millisecond, 8 * time.Millisecond},
		{2, 1, maxHold - 1, maxHold - 1 + (maxHold-1)/3},
		{2, 2, 6 * time.Millisecond, 8 * time.Millisecond},
		{2, 0, 0, maxHold},
		{100, 92, time.Millisecond, maxHold}, // 7 may be stragglers, not 8
		{100, 93, time.Millisecond, time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCoalescer()
			b := new(batch)
			begin := time.Now()
			c.begin(b, row.clients)
			if !c.holds {
				t.Error("does not hold")
			}
			go func() {
				time.Sleep(row.after)
				for range row.written {
					b.markWritten()
				}
			}()
			awaitEnd(c)
			c.release()
			if took := time.Since(begin); took != row.want || c.holds {
				t.Errorf("%+v: ended after %v", row, took)
			}
		})
	}
}

// A batch that most were written late, after the hold for the next one began, does not
// end that hold.
func TestLateBatchEndsNoHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoalescer()
		late, current := new(batch), new(batch)
		c.begin(late, 2)
		awaitEnd(c)
		c.release()
		begin := time.Now()
		c.begin(current, 2)
		late.markWritten()
		time.Sleep(time.Millisecond)
		late.markWritten()
		awaitEnd(c)
		if held := time.Since(begin); held != maxHold {
			t.Errorf("held for %v, want %v", held, maxHold)
		}
	})
}

// The end of a hold that a new one replaces does not end the new one.
func TestHoldIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoalescer()
		b := new(batch)
		c.begin(b, 1)
		b.markWritten() // the hold is to end now
		time.Sleep(time.Millisecond)
		begin := time.Now()
		c.begin(new(batch), 1)
		awaitEnd(c)
		if held := time.Since(begin); held != maxHold {
			t.Errorf("held for %v, want %v", held, maxHold)
		}
	})
}

// A batch's frames hold protocol.MaxFrame bytes, and not one more, in either protocol.
func TestBuilderFillsFrames(t *testing.T) {
	x := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	clients := [protocol.NumProtocols]int{1, 1}
	for _, sizes := range [][protocol.NumProtocols]int{
		{protocol.Classic: 100, protocol.ChatV1: protocol.MaxFrame - 1001},
		{protocol.Classic: protocol.MaxFrame - 1001, protocol.ChatV1: 100},
	} {
		var bb batchBuilder
		full := [protocol.NumProtocols][]byte{x(protocol.MaxFrame), x(protocol.MaxFrame)}
		if !bb.fits(full) {
			t.Error("the longest line does not fit")
		}
		bb.add([protocol.NumProtocols][]byte{x(sizes[0]), x(sizes[1])}, clients, time.Now())
		if !bb.fits([protocol.NumProtocols][]byte{x(1000), x(1000)}) {
			t.Errorf("beside %v bytes 1000 do not fit", sizes)
		}
		if bb.fits([protocol.NumProtocols][]byte{x(1001), x(1001)}) {
			t.Errorf("beside %v bytes 1001 fit", sizes)
		}
	}
}

// Nothing is framed for a protocol that no client speaks.
func TestBuilderSkipsUnspokenProtocols(t *testing.T) {
	var bb batchBuilder
	lines := [protocol.NumProtocols][]byte{[]byte("hello"), []byte("{}")}
	bb.add(lines, [protocol.NumProtocols]int{protocol.Classic: 1}, time.Now())
	bb.add(lines, [protocol.NumProtocols]int{protocol.Classic: 1}, time.Now())
	b := bb.take()
	if text := string(b.payloads[protocol.Classic].text); text != "hello\nhello" {
		t.Errorf("%q", text)
	}
	if p := b.payloads[protocol.ChatV1]; p.frame != nil || p.text != nil {
		t.Errorf("%q for nobody", p.text)
	}
	if bb.lines != 0 || bb.take().payloads[protocol.Classic].text != nil {
		t.Error("the next batch begins with the last one's lines")
	}
}

// member puts a client without a connection into the hub's room, before run. What it
// is to hear is in its queue.
func joinHub(h *Hub) *Client {
	c := &Client{hub: h, send: make(chan *batch, queueSize), done: make(chan struct{})}
	h.join(c)
	return c
}

// queued returns all that a client that is gone was to hear.
func queued(t *testing.T, c *Client) string {
	var lines []string
	for b := range c.send {
		if len(b.payloads[protocol.Classic].text) > protocol.MaxFrame {
			t.Errorf("a batch of %d bytes", len(b.payloads[protocol.Classic].text))
		}
		if b.payloads[protocol.ChatV1].frame != nil {
			t.Error("framed for a wire that nobody speaks")
		}
		lines = append(lines, string(b.payloads[protocol.Classic].text))
	}
	return strings.Join(lines, "\n")
}

// What is said before someone leaves, and before a stop, is said, whichever the hub
// comes to look at first; and what waits is one batch, as far as a frame goes.
func TestWhatWaitsIsSaidFirst(t *testing.T) {
	for i := range 50 {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			h := newHub(ratelog.New(), metrics.New(), 0)
			ada, bob := joinHub(h), joinHub(h)
			var said []string
			for i := range 100 {
				said = append(said, fmt.Sprint(i, strings.Repeat(".", i*20)))
				h.broadcast <- message{ada, protocol.ClientMessage{Text: said[i]}}
			}
			go offer(h, h.unregister, leave{ada, goodbye})
			synctest.Wait()
			if i%2 == 0 {
				stop()
			} else {
				time.AfterFunc(time.Second, stop)
			}
			h.run(ctx)
			for _, c := range []*Client{ada, bob} {
				if queued(t, c) != strings.Join(said, "\n") {
					t.Error("one has not heard it all")
				}
			}
		})
	}
}

// Those who do not take what they are given hold up the next batch for gatherWait and
// no longer, whatever the last one was made for.
func TestGatherWait(t *testing.T) {
	for range 20 { // the hub may look at the message first, or at the departure
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			h := newHub(ratelog.New(), metrics.New(), 0)
			ada, bob := joinHub(h), joinHub(h)
			joinHub(h)
			h.broadcast <- message{ada, protocol.ClientMessage{Text: "farewell"}}
			go offer(h, h.unregister, leave{ada, goodbye})
			synctest.Wait()
			go h.run(ctx)
			synctest.Wait()
			h.broadcast <- message{bob, protocol.ClientMessage{Text: "and now?"}}
			synctest.Wait()
			if len(h.broadcast) != 1 {
				t.Error("the hub did not wait")
			}
			time.Sleep(maxHold)
			synctest.Wait()
			if len(h.broadcast) != 0 {
				t.Error("the hub is still waiting")
			}
			stop()
			<-h.stopped
		})
	}
}

// What waits for one found too slow stays as it is, whatever its writePump takes
// meanwhile: there must not be a gap in what it hears before it is told.
func TestTooSlowHasNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		h := newHub(ratelog.New(), metrics.New(), 0)
		slow, ada := joinHub(h), joinHub(h)
		go h.run(ctx)
		var said []string
		for i := range queueSize + 1 {
			h.broadcast <- message{ada, protocol.ClientMessage{Text: fmt.Sprint(i)}}
			synctest.Wait()
			(<-ada.send).markWritten()
			synctest.Wait()
			said = append(said, fmt.Sprint(i))
		}
		if got := queued(t, slow); slow.reason != slowConsumer || got != strings.Join(said[:queueSize], "\n") {
			t.Errorf("%v, and what waits is %.100q", slow.reason, got)
		}
		stop()
		<-h.stopped
	})
}

// Messages that a client sent before it was disconnected as a slow consumer, and that the
// hub has not taken yet, are not delivered.
func TestASlowConsumersLastMessagesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		h := newHub(ratelog.New(), metrics.New(), 0)
		slow, ada := joinHub(h), joinHub(h)
		h.drop(slow, slowConsumer)
		h.broadcast <- message{slow, protocol.ClientMessage{Text: "am I still here?"}}
		h.broadcast <- message{ada, protocol.ClientMessage{Text: "hello"}}
		time.AfterFunc(time.Second, stop)
		h.run(ctx)
		if got := queued(t, ada); got != "hello" {
			t.Errorf("received %q", got)
		}
	})
}

// When most have taken a batch, the hub waits a third of that time more, and what is said
// until then is one batch.
func TestRestAfterABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		h := newHub(ratelog.New(), metrics.New(), 0)
		ada, bob := joinHub(h), joinHub(h)
		go h.run(ctx)
		h.broadcast <- message{ada, protocol.ClientMessage{Text: "who is here?"}}
		synctest.Wait()
		time.Sleep(6 * time.Millisecond)
		(<-ada.send).markWritten()
		synctest.Wait()
		time.Sleep(time.Millisecond)
		h.broadcast <- message{ada, protocol.ClientMessage{Text: "I am"}}
		synctest.Wait()
		if len(h.broadcast) != 1 {
			t.Error("the hub did not rest")
		}
		time.Sleep(time.Millisecond / 2)
		h.broadcast <- message{bob, protocol.ClientMessage{Text: "and I"}}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(h.broadcast) != 0 {
			t.Error("the hub is still resting")
		}
		<-bob.send // the question
		if answers := string((<-bob.send).payloads[protocol.Classic].text); answers != "I am\nand I" {
			t.Errorf("the next batch is %q", answers)
		}
		stop()
		<-h.stopped
	})
}

// The hub's inner loop: one line to a thousand people on each wire, whose queues are
// emptied as fast as they fill.
func BenchmarkBroadcast(b *testing.B) {
	for w, name := range []string{protocol.Classic: "classic", protocol.ChatV1: "chat.v1"} {
		b.Run(name, func(b *testing.B) {
			h := newHub(ratelog.New(), metrics.New(), 0)
			members := make([]*Client, 1000)
			for i := range members {
				members[i] = &Client{hub: h, protocol: protocol.Protocol(w), userID: fmt.Sprint(i), send: make(chan *batch, queueSize)}
				h.join(members[i])
				members[i].send = make(chan *batch, queueSize) // without the greeting
			}
			line := message{members[0], protocol.ClientMessage{Text: strings.Repeat("x", 64)}}
			b.ReportAllocs()
			for b.Loop() {
				h.deliver(line)
				h.flush()
				for _, c := range members {
					<-c.send
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(members)), "ns/delivery")
		})
	}
}

// One whose queue is full is dropped in the same turn in which it repeats itself.
func TestRepeatOfOneTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		h := newHub(ratelog.New(), metrics.New(), 0)
		slow := &Client{hub: h, protocol: protocol.ChatV1, userID: "slow", send: make(chan *batch, 1), done: make(chan struct{})}
		h.join(slow) // its queue is full: it has not taken the hello
		other := joinHub(h)
		h.broadcast <- message{slow, protocol.ClientMessage{Text: "hello", ClientMsgID: "r"}}
		h.broadcast <- message{slow, protocol.ClientMessage{Text: "hello", ClientMsgID: "r"}}
		time.AfterFunc(time.Second, stop)
		h.run(ctx)
		if b := <-other.send; string(b.payloads[protocol.Classic].text) != "hello" || <-other.send != nil {
			t.Errorf("the other has heard %q, or something more", b.payloads[protocol.Classic].text)
		}
		if slow.reason != slowConsumer {
			t.Errorf("it ended with %v", slow.reason)
		}
	})
}
