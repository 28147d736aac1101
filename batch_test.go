package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/backlog"
	"chat/internal/history"
	"chat/internal/metrics"
	"chat/internal/protocol"
	"chat/internal/queue"
	"chat/internal/ratelog"
)

// awaitEnd waits until the hold ends, as the hub does.
func awaitEnd(c *coalescer) {
	for c.holds {
		select {
		case <-c.ended:
			c.release()
		case <-c.timer.C:
			c.expire()
		}
	}
}

// When most clients were written a batch, the hold ends: at once if that took little time, or
// as many messages wait as the batch had; else after twice that time. A batch that is written
// to nobody is not waited for.
func TestHoldEndsWhenMostWereWritten(t *testing.T) {
	const ms = time.Millisecond
	for _, row := range []struct {
		clients int
		written int           // of these
		after   time.Duration // from the beginning
		lines   int           // in the batch
		waiting int           // messages that come before that
		later   int           // messages that come a millisecond after that
		want    time.Duration // until the hold ends
	}{
		{1, 1, 0, 1, 0, 0, 0},
		{2, 1, 3*minHold - 1, 1, 0, 0, 3*minHold - 1},
		{2, 1, 3 * minHold, 1, 0, 0, 9 * minHold},
		{2, 1, 6 * ms, 1, 0, 0, 18 * ms},
		{2, 2, 6 * ms, 1, 0, 0, 18 * ms},
		{2, 1, stallTime - 1, 1, 0, 0, 3 * (stallTime - 1)},
		{2, 1, stallTime + 1, 1, 0, 0, stallTime},
		{2, 0, 0, 1, 5, 0, stallTime},
		{2, 1, 6 * ms, 1, 1, 0, 6 * ms},
		{2, 1, 6 * ms, 4, 3, 0, 18 * ms},
		{2, 1, 6 * ms, 4, 4, 0, 6 * ms},
		{2, 1, 6 * ms, 4, 3, 1, 7 * ms},
		{2, 1, 6 * ms, 4, 2, 1, 18 * ms},
		{2, 1, 6 * ms, 11, 10, 0, 6 * ms},     // no more than ten can wait
		{100, 92, ms, 1, 0, 0, 2 * stallTime}, // 7 may be stragglers, not 8
		{100, 93, ms, 1, 0, 0, ms},
	} {
		synctest.Test(t, func(t *testing.T) {
			messages := make(chan int, 10)
			c := newCoalescer(messages)
			say := func(lines int) {
				for range lines {
					messages <- 1
					c.messageWaits()
				}
			}
			b := new(batch)
			begin := time.Now()
			b.expect(row.clients, 1, backlog.New())
			c.begin(b, row.lines, row.clients)
			if !c.holds {
				t.Error("does not hold")
			}
			go func() {
				say(row.waiting)
				time.Sleep(row.after)
				for range row.written {
					b.markWritten()
				}
				time.Sleep(ms)
				say(row.later)
			}()
			awaitEnd(c)
			if took := time.Since(begin); took != row.want {
				t.Errorf("%+v: ended after %v", row, took)
			}
			time.Sleep(maxHold)
		})
	}
}

// A batch is waited for as long as it is written to one more client in each stallTime, and
// no longer than maxHold. That counts for the answers, too.
func TestAHoldWaitsForSlowWriting(t *testing.T) {
	const clients = 100
	for _, row := range []struct {
		each    time.Duration // between two clients
		written int           // clients, before it stalls
		want    time.Duration // until the hold ends
	}{
		{stallTime - 1, 3, 4 * stallTime},
		{stallTime - 1, clients, maxHold},
		{stallTime + 1, clients, stallTime},
		{maxHold / 3 / (clients - 7), clients, 3 * (maxHold / 3 / (clients - 7) * (clients - 7))},
		{maxHold / 2 / (clients - 7), clients, maxHold},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCoalescer(make(chan int, 10))
			b := new(batch)
			begin := time.Now()
			b.expect(clients, 1, backlog.New())
			c.begin(b, 1, clients)
			go func() {
				for range row.written {
					time.Sleep(row.each)
					b.markWritten()
				}
			}()
			awaitEnd(c)
			if took := time.Since(begin); took != row.want {
				t.Errorf("%+v: ended after %v", row, took)
			}
			time.Sleep(clients * row.each)
		})
	}
}

// Several batches that are handed out at once have one hold, which waits for as many
// messages as all of them had; those before the hold do not count.
func TestAHoldIsForAllThatWasHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		messages := make(chan int, 10)
		c := newCoalescer(messages)
		for _, sizes := range [][]int{{2, 1}, {2}} {
			messages <- 1
			messages <- 1
			begin := time.Now()
			for _, lines := range sizes {
				b := new(batch)
				b.expect(1, 1, backlog.New())
				c.begin(b, lines, 1)
				time.Sleep(6 * time.Millisecond)
				b.markWritten()
			}
			awaitEnd(c)
			want := 6 * time.Millisecond
			if len(sizes) == 2 {
				want = (6 + 6 + 2*6) * time.Millisecond
			}
			if held := time.Since(begin); held != want {
				t.Errorf("%v: held for %v, want %v", sizes, held, want)
			}
			for range 2 {
				<-messages
			}
		}
	})
}

// A batch that most were written late, after the hold for the next one began, does not
// end that hold.
func TestABatchWrittenLateEndsNoHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoalescer(make(chan int, 10))
		late, current := new(batch), new(batch)
		late.expect(2, 1, backlog.New())
		current.expect(2, 1, backlog.New())
		c.begin(late, 1, 2)
		awaitEnd(c)
		begin := time.Now()
		c.begin(current, 1, 2)
		late.markWritten()
		time.Sleep(time.Millisecond)
		late.markWritten()
		awaitEnd(c)
		if held := time.Since(begin); held != stallTime {
			t.Errorf("held for %v, want %v", held, stallTime)
		}
	})
}

// A hold that has ended ends once: the hub is not woken when its batch is written, or a
// message comes, after that.
func TestAHoldEndsOnce(t *testing.T) {
	for _, took := range []time.Duration{6 * time.Millisecond, 2 * stallTime} {
		synctest.Test(t, func(t *testing.T) {
			messages := make(chan int, 10)
			c := newCoalescer(messages)
			b := new(batch)
			b.expect(1, 1, backlog.New())
			c.begin(b, 1, 1)
			time.AfterFunc(took, b.markWritten)
			awaitEnd(c)
			time.Sleep(maxHold)
			messages <- 1
			c.messageWaits()
			if len(c.ended) > 0 {
				t.Errorf("written after %v: the hold ends again", took)
			}
		})
	}
}

// The end of a hold that a new one replaces does not end the new one, whether it has come or
// would come with the next message.
func TestANewHoldReplacesTheOldOne(t *testing.T) {
	for _, took := range []time.Duration{0, 6 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			messages := make(chan int, 10)
			c := newCoalescer(messages)
			b := new(batch)
			b.expect(1, 1, backlog.New())
			c.begin(b, 1, 1)
			time.Sleep(took)
			b.markWritten() // the hold is to end, at once or with a message
			begin := time.Now()
			next := new(batch)
			next.expect(1, 1, backlog.New())
			c.begin(next, 1, 1)
			messages <- 1
			c.messageWaits()
			awaitEnd(c)
			if held := time.Since(begin); held != stallTime {
				t.Errorf("held for %v, want %v", held, stallTime)
			}
		})
	}
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
	b := bb.build()
	if text := string(b.payloads[protocol.Classic].text); text != "hello\nhello" {
		t.Errorf("%q", text)
	}
	if p := b.payloads[protocol.ChatV1]; p.frame != nil || p.text != nil {
		t.Errorf("%q for nobody", p.text)
	}
	if bb.messages != 0 || bb.build().payloads[protocol.Classic].text != nil {
		t.Error("the next batch begins with the last one's lines")
	}
}

// newTestHub returns a hub that does not run yet.
func newTestHub() *Hub { return newHubOn(&localLog{history: history.New(time.Now(), 0)}) }

// newHubOn returns a hub that does not run yet, with a log.
func newHubOn(log roomLog) *Hub { return newHub(ratelog.New(), metrics.New(), backlog.New(), log) }

// joinHub registers a client that has no connection with a hub that does not run yet. The
// hub leaves what it sends to the client in the client's queue.
func joinHub(h *Hub, p protocol.Protocol) *Client {
	c := &Client{hub: h, protocol: p, userID: fmt.Sprint(len(h.clients)), admitted: make(chan struct{}), send: queue.New[*batch](queueSize), done: make(chan struct{})}
	h.join(c)
	return c
}

// nextBatch takes the next batch from the client's queue; nil when that is closed and empty.
func (c *Client) nextBatch() *batch {
	b, _ := c.send.Take()
	return b
}

// say leaves a message of the client for the hub.
func (c *Client) say(text string) {
	c.hub.broadcast <- message{c, protocol.ClientMessage{Text: text}}
	c.hub.coalescer.messageWaits()
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
	for b := c.nextBatch(); b != nil; b = c.nextBatch() {
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
		b := ada.nextBatch()
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

// Clients that are not written a batch hold up the next one for stallTime and no longer,
// also when the first was sent because a client left.
func TestAHoldEndsAfterStallTime(t *testing.T) {
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
			time.Sleep(stallTime)
			synctest.Wait()
			if len(h.broadcast) != 0 {
				t.Error("the hub still holds the message back")
			}
		})
	}
}

// When most were written a batch, the hub holds messages back until as many wait. They are
// one batch.
func TestAnswersShareABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub()
		ada, bob := joinHub(h, protocol.Classic), joinHub(h, protocol.Classic)
		ada.say("who is here?")
		bob.say("who is there?")
		go h.run(t.Context())
		synctest.Wait()
		time.Sleep(6 * time.Millisecond)
		ada.nextBatch().markWritten()
		synctest.Wait()
		ada.say("I am")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(h.broadcast) != 1 {
			t.Error("the hub did not hold the message back")
		}
		bob.say("and I")
		synctest.Wait()
		if len(h.broadcast) != 0 {
			t.Error("the hub still holds the messages back")
		}
		bob.nextBatch() // the questions
		if answers := string(bob.nextBatch().payloads[protocol.Classic].text); answers != "I am\nand I" {
			t.Errorf("the next batch is %q", answers)
		}
	})
}

// A client's answer ends the hold, too.
func TestAnAnswerIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		slow := []*raw{chat.upgrade(), chat.upgrade()}
		question := strings.Repeat("?", protocol.MaxText)
		ada.say(question)
		synctest.Wait()
		time.Sleep(6 * time.Millisecond)
		slow[0].next() // now most have it
		ada.say("!")
		ada.want(question, "!")
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
			ada.nextBatch().markWritten()
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
		slow.send = queue.New[*batch](0) // takes nothing
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
					clients[i].nextBatch() // the greeting
				}
			}
			m := message{clients[0], protocol.ClientMessage{Text: strings.Repeat("x", 64)}}
			b.ReportAllocs()
			for b.Loop() {
				h.log.say(m)
				h.deliver()
				for _, c := range clients {
					c.nextBatch()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(clients)), "ns/delivery")
		})
	}
}
