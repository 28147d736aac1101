package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/backlog"
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
func TestHoldEndsWhenMostWereWritten(t *testing.T) {
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
			b.expect(row.clients, 1, backlog.New())
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
func TestABatchWrittenLateEndsNoHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoalescer()
		late, current := new(batch), new(batch)
		late.expect(2, 1, backlog.New())
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
func TestANewHoldReplacesTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoalescer()
		b := new(batch)
		b.expect(1, 1, backlog.New())
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
func TestABatchFillsItsFrames(t *testing.T) {
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
func TestNothingIsFramedForNobody(t *testing.T) {
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
	if bb.messages != 0 || bb.take().payloads[protocol.Classic].text != nil {
		t.Error("the next batch begins with the last one's lines")
	}
}

// newTestHub returns a hub that does not run yet.
func newTestHub() *Hub { return newHub(ratelog.New(), metrics.New(), 0) }

// joinHub registers a client that has no connection with a hub that does not run yet. The
// hub leaves what it sends to the client in the client's queue.
func joinHub(h *Hub, p protocol.Protocol) *Client {
	c := &Client{hub: h, protocol: p, userID: fmt.Sprint(len(h.clients)), admitted: make(chan struct{}), send: make(chan *batch, queueSize), done: make(chan struct{})}
	h.join(c)
	return c
}

// say leaves a message of the client for the hub.
func (c *Client) say(text string) {
	c.hub.broadcast <- message{c, protocol.ClientMessage{Text: text}}
}

// runForASecond runs a hub for a second, and then stops it.
func runForASecond(t *testing.T, h *Hub) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	h.run(ctx)
}

// queued returns the texts that wait for a client of the classic protocol that has been
// disconnected, joined by newlines.
func queued(t *testing.T, c *Client) string {
	var texts []string
	for b := range c.send {
		text := string(b.payloads[protocol.Classic].text)
		if len(text) > protocol.MaxFrame {
			t.Errorf("a batch of %d bytes", len(text))
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "\n")
}

// When the last client of a protocol has left, nothing more is framed for it.
func TestNothingIsFramedForAProtocolWhoseClientsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub()
		ada, bob := joinHub(h, protocol.Classic), joinHub(h, protocol.ChatV1)
		h.drop(bob, goodbye)
		ada.say("hello")
		runForASecond(t, h)
		b := <-ada.send
		if b.payloads[protocol.Classic].frame == nil || b.payloads[protocol.ChatV1].frame != nil {
			t.Errorf("framed %q and %q", b.payloads[protocol.Classic].text, b.payloads[protocol.ChatV1].text)
		}
	})
}

// What was sent before a client leaves, and before a stop, is delivered first, whichever
// the hub looks at first. What waits is one batch, as far as a frame goes.
func TestWaitingMessagesAreDeliveredFirst(t *testing.T) {
	for i := range 50 {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			h := newTestHub()
			ada, bob := joinHub(h, protocol.Classic), joinHub(h, protocol.Classic)
			var sent []string
			for i := range 100 {
				sent = append(sent, fmt.Sprint(i, strings.Repeat(".", i*20)))
				ada.say(sent[i])
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
				if queued(t, c) != strings.Join(sent, "\n") {
					t.Error("a client has not received everything")
				}
			}
		})
	}
}

// Clients that are not written a batch hold up the next one for maxHold and no longer,
// also when the first was sent because a client left.
func TestAHoldEndsAfterMaxHold(t *testing.T) {
	for range 20 { // the hub may take the message first, or the leave
		synctest.Test(t, func(t *testing.T) {
			h := newTestHub()
			ada, bob := joinHub(h, protocol.Classic), joinHub(h, protocol.Classic)
			joinHub(h, protocol.Classic)
			ada.say("farewell")
			go offer(h, h.unregister, leave{ada, goodbye})
			synctest.Wait()
			go h.run(t.Context())
			synctest.Wait()
			bob.say("and now?")
			synctest.Wait()
			if len(h.broadcast) != 1 {
				t.Error("the hub did not hold the message back")
			}
			time.Sleep(maxHold)
			synctest.Wait()
			if len(h.broadcast) != 0 {
				t.Error("the hub still holds the message back")
			}
		})
	}
}

// When most were written a batch, the hub holds messages back for a third of that time
// more. What comes until then is one batch.
func TestAnswersShareABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub()
		ada, bob := joinHub(h, protocol.Classic), joinHub(h, protocol.Classic)
		go h.run(t.Context())
		ada.say("who is here?")
		synctest.Wait()
		time.Sleep(6 * time.Millisecond)
		(<-ada.send).markWritten()
		synctest.Wait()
		time.Sleep(time.Millisecond)
		ada.say("I am")
		synctest.Wait()
		if len(h.broadcast) != 1 {
			t.Error("the hub did not hold the message back")
		}
		time.Sleep(time.Millisecond / 2)
		bob.say("and I")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(h.broadcast) != 0 {
			t.Error("the hub still holds the messages back")
		}
		<-bob.send // the question
		if answers := string((<-bob.send).payloads[protocol.Classic].text); answers != "I am\nand I" {
			t.Errorf("the next batch is %q", answers)
		}
	})
}

// The queue of a slow consumer has no gap, whatever its writePump takes from it between
// the batch that did not fit and the close: nothing more is put into it.
func TestASlowConsumersQueueHasNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub()
		slow, ada := joinHub(h, protocol.Classic), joinHub(h, protocol.Classic)
		go h.run(t.Context())
		var sent []string
		for i := range queueSize + 1 {
			sent = append(sent, fmt.Sprint(i))
			ada.say(sent[i])
			synctest.Wait()
			(<-ada.send).markWritten()
			synctest.Wait()
		}
		if got := queued(t, slow); slow.reason != slowConsumer || got != strings.Join(sent[:queueSize], "\n") {
			t.Errorf("%v, and in the queue is %.100q", slow.reason, got)
		}
	})
}

// Messages that wait for the hub when their sender is disconnected as a slow consumer are
// not delivered.
func TestNothingIsDeliveredFromADisconnectedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub()
		slow, ada := joinHub(h, protocol.Classic), joinHub(h, protocol.Classic)
		h.drop(slow, slowConsumer)
		slow.say("am I still here?")
		ada.say("hello")
		runForASecond(t, h)
		if got := queued(t, ada); got != "hello" {
			t.Errorf("received %q", got)
		}
	})
}

// A client repeats a message, and is found to be a slow consumer when the hub sends what
// came before the repeat. There is no answer then.
func TestARepeatOfASlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub()
		slow, ada := joinHub(h, protocol.ChatV1), joinHub(h, protocol.Classic)
		slow.send = make(chan *batch) // takes nothing
		for range 2 {
			h.broadcast <- message{slow, protocol.ClientMessage{Text: "hello", ClientMsgID: "r"}}
		}
		runForASecond(t, h)
		if got := queued(t, ada); got != "hello" || slow.reason != slowConsumer {
			t.Errorf("received %q; the slow consumer was disconnected as %v", got, slow.reason)
		}
	})
}

// The hub's inner loop: one message to a thousand clients of each protocol, whose queues
// are emptied as fast as they fill.
func BenchmarkBroadcast(b *testing.B) {
	for p := range protocol.NumProtocols {
		b.Run(p.String(), func(b *testing.B) {
			h := newTestHub()
			clients := make([]*Client, 1000)
			for i := range clients {
				clients[i] = joinHub(h, p)
				if p == protocol.ChatV1 {
					<-clients[i].send // the greeting
				}
			}
			m := message{clients[0], protocol.ClientMessage{Text: strings.Repeat("x", 64)}}
			b.ReportAllocs()
			for b.Loop() {
				h.log.say(m)
				h.deliver()
				for _, c := range clients {
					<-c.send
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(clients)), "ns/delivery")
		})
	}
}
