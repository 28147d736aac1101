package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/metrics"
	"chat/internal/protocol"
	"chat/internal/ratelog"
	"chat/internal/wstest"
)

// What the room promises to those who are in it. The words are in chat_test.go: a
// chat is started, people join and say something, and want lists what each of them
// has heard since it was last asked.

func TestEveryoneHearsEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")

		ada.say("hello")
		ada.want("hello")
		bob.want("hello")

		bob.say("good morning")
		ada.want("good morning")
		bob.want("good morning")
	})
}

func TestANameStandsBeforeTheText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join("name=Ada"), chat.join("")
		ada.say("hello")
		ada.want("Ada: hello")
		bob.want("Ada: hello")
		bob.say("hi")
		ada.want("hi")
		bob.want("hi")
	})
}

func TestOneHearsOnlyWhatIsSaidWhileHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		ada.say("anybody here?")
		ada.want("anybody here?")

		bob := chat.join("")
		bob.want() // no history on the classic wire, and no notices
		ada.want()

		bob.leave()
		bob.wantClosed(1000, "goodbye")
		ada.say("where did you go?")
		ada.want("where did you go?")
		chat.wantClients(1)
	})
}

// One says something and is gone: it counts, however soon it goes.
func TestLastWordsAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		bob := chat.join("")
		for i := range 100 {
			ada := chat.join("")
			ada.say(fmt.Sprint("farewell ", i))
			ada.conn.Close()
			bob.want(fmt.Sprint("farewell ", i))
		}
		chat.wantClients(1)
	})
}

// The order is one: what fifty people paste at the same moment, all fifty read alike.
func TestFiftyPaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		people := make([]*person, 50)
		for i := range people {
			people[i] = chat.join("")
		}
		for i, p := range people {
			go func() {
				for line := range 20 {
					p.say(fmt.Sprintf("%d says %d", i, line))
				}
			}()
		}
		lines := people[0].texts()
		if len(lines) != 1000 {
			t.Fatalf("%d lines arrived, want 1000", len(lines))
		}
		next := make([]int, len(people)) // the line each is to say next
		for _, line := range lines {
			var who, which int
			if _, err := fmt.Sscanf(line, "%d says %d", &who, &which); err != nil || next[who] != which {
				t.Fatalf("%q arrived, want %d of %d", line, next[who], who)
			}
			next[who]++
		}
		for _, p := range people[1:] {
			p.want(lines...)
		}
	})
}

// Without a word for ten minutes, people stay; one whose line is dead is forgotten
// after pongWait, and nobody else notices.
func TestIdleStaysVanishedGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")
		time.Sleep(10 * time.Minute)
		ada.wantHere()
		bob.wantHere()

		bob.freeze()
		chat.wantClients(2)
		time.Sleep(pongWait + lingerWait + time.Second)
		chat.wantClients(1)
		ada.say("alone?")
		ada.want("alone?")
	})
}

// One stops reading. The others hear everything at once; it is dropped when its
// queue is full, and from that moment not heard.
func TestStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t, unlimited)
		ada, bob := chat.join(""), chat.join("")
		hub := chat.rooms.named[lobby].hub
		others := maps.Clone(hub.clients)
		stuck := chat.upgrade()
		var client *Client // the hub's side of it
		for c := range hub.clients {
			if !others[c] {
				client = c
			}
		}

		long := strings.Repeat("long", protocol.MaxText/4)
		lines := 0
		for ; len(hub.clients) == 3 && lines < 2*queueSize; lines++ {
			ada.say(long)
			ada.want(long)
			bob.want(long)
		}
		if inFlight := chat.network.Window/protocol.MaxText + 1; lines < queueSize || lines > queueSize+2*inFlight {
			t.Errorf("dropped after %d lines, want about the queue's %d", lines, queueSize)
		}

		stuck.send(wstest.Masked(wstest.Fin|wstest.Text, "am I still heard?"))
		hub.broadcast <- message{client, protocol.ClientMessage{Text: "nor what was on its way?"}}
		bob.want()
		// It reads on, in time to be told why. It would not have come to the end of its
		// queue, so that is not sent.
		if frames, window := stuck.wantClosed(1013), chat.network.Window/protocol.MaxText+1; frames > window {
			t.Errorf("%d frames before the close frame, want %d, which were on their way", frames, window)
		}
		wantLogged(t, log, 1, "192.0.2.2:1234 disconnected: too slow")
		chat.wantClients(2)
	})
}

// One reads slowly: what waits for it comes in shared frames, of a size that all clients take.
func TestWaitingBatchesShareFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		slow := chat.upgrade()
		var said []string
		for i := range 60 {
			line := fmt.Sprint(i, strings.Repeat(".", i*protocol.MaxText/60))
			ada.say(line)
			ada.want(line) // a batch of its own
			said = append(said, line)
		}
		var heard []string
		for frames := 0; len(heard) < len(said); frames++ {
			_, payload, err := slow.next() // which fails for a frame above protocol.MaxFrame
			if err != nil {
				t.Fatal(err)
			}
			heard = append(heard, strings.Split(payload, "\n")...)
			if frames > 20 {
				t.Fatal("hardly anything shares a frame")
			}
		}
		if !slices.Equal(heard, said) {
			t.Error("heard something else")
		}
	})
}

// One stops reading and the room is quiet: it is dropped when it has not taken what
// was being written to it for writeWait, and there is no way to tell it why.
func TestWriteLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		stuck := chat.upgrade()
		ada.say(strings.Repeat("long", protocol.MaxText/4))
		time.Sleep(writeWait - time.Second)
		chat.wantClients(2)
		time.Sleep(2 * time.Second)
		chat.wantClients(1)
		wantLogged(t, log, 1, "192.0.2.2:1234 disconnected: did not take a frame within 10s")
		stuck.wantGone(time.Second)
		ada.wantHere()
	})
}

// One stops reading while more waits for it than goes into one write: it has writeWait for
// each frame of that write.
func TestWriteLimitOfABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		stuck := chat.upgradeTo("", protocol.ChatV1)
		for range 20 {
			ada.say(strings.Repeat(`"`, protocol.MaxText)) // on chat.v1 so long that no two fit into a frame
			synctest.Wait()
		}
		for range 2 { // the hello, and the first line, which went out alone
			stuck.next()
		}
		time.Sleep((1+maxHeld)*writeWait - time.Second)
		chat.wantClients(2)
		time.Sleep(2 * time.Second)
		chat.wantClients(1)
	})
}

// One sends 30,000 messages at once, while twenty read at 400 KB/s and one of them
// asks something.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		ada := chat.join("")
		readers := make([]*slowReader, 20)
		for i := range readers {
			readers[i] = chat.upgrade().readSlowly(400_000)
		}
		flooder := chat.upgrade()
		go func() { // as fast as its line takes it: for most of an hour
			for i := range 30_000 {
				if _, err := io.WriteString(flooder.Conn, wstest.Masked(wstest.Fin|wstest.Text, fmt.Sprint("flood ", i))); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		ada.say("can you hear me?")
		time.Sleep(time.Second)
		for _, r := range readers {
			if r.count("can you hear me?") != 1 {
				t.Errorf("a reader has not heard the question within a second")
			}
		}
		// The one that floods is held to its rate, but it is not dropped, though its pongs
		// wait behind the flood: what it says is said, all of it and in order.
		time.Sleep(5 * time.Minute)
		chat.wantClients(22)
		wantLogged(t, log, 1, "is throttled")
		said := 0
		for _, line := range ada.texts() {
			if strings.HasPrefix(line, "flood ") {
				if line != fmt.Sprint("flood ", said) {
					t.Fatalf("heard %q, want flood %d", line, said)
				}
				said++
			}
		}
		if want := 100 + 10*302; said < want-20 || said > want+20 {
			t.Errorf("the flooder has said %d lines in about 5 minutes, want about %d", said, want)
		}
	})
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

// A stop while twenty people talk: all have heard the same when they are told.
func TestStopWhileTalking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		people := make([]*person, 20)
		for i := range people {
			people[i] = chat.join("")
		}
		for i, p := range people {
			go func() {
				for n := 0; ; n++ {
					if p.conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "%d says %d", i, n)) != nil {
						return
					}
					time.Sleep(time.Duration(i+1) * time.Millisecond)
				}
			}()
		}
		time.Sleep(100 * time.Millisecond)
		chat.stop()
		chat.wantStopped()
		lines := people[0].texts()
		if len(lines) < 200 {
			t.Errorf("only %d lines arrived", len(lines))
		}
		for _, p := range people {
			p.wantClosed(1001, "the server is stopping")
		}
		for _, p := range people[1:] {
			p.want(lines...)
		}
	})
}

// A stop does not wait for those who will never answer: in this room there are one that
// has not said anything yet, one half-way through its request, one that does not
// read, one whose line is dead, and one that is held to its rate.
func TestStopAmongTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")
		chat.dial()
		chat.dial().send("GET / HTT")
		chat.network.Window = 1 << 10
		chat.upgrade()
		ada.say(strings.Repeat("long", protocol.MaxText/4))
		bob.freeze()
		for range 200 {
			ada.say("hurry")
		}
		synctest.Wait()
		chat.stop()
		chat.wantStopped()
		ada.wantClosed(1001, "the server is stopping")
	})
}

// A stop does not wait for a handshake's answer to be taken.
func TestStopDuringHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		chat.network.Window = 64
		chat.dial().send(handshake)
		synctest.Wait()
		chat.stop()
		chat.wantStopped()
	})
}

// At a stop each line gets what is queued for it, as fast as it takes it.
func TestStopWithASlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.join("")
		slow := chat.upgrade().readSlowly(100_000)
		for i := range 80 {
			ada.say(fmt.Sprint("n", i, ";", strings.Repeat("x", 4000)))
			synctest.Wait()
		}
		chat.stop()
		chat.wantStopped()
		time.Sleep(time.Second)
		for i := range 80 {
			if slow.count(fmt.Sprint("n", i, ";")) != 1 {
				t.Errorf("line %d is missing", i)
			}
		}
		if slow.count("the server is stopping") != 1 {
			t.Error("it was not told")
		}
	})
}

// A log that stands still, as in a terminal in which somebody selects text, holds up
// nobody.
func TestLogStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		log.SetOutput(writerFunc(func(p []byte) (int, error) { <-release; return len(p), nil }))
		defer log.SetOutput(io.Discard)
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")
		for range 10 {
			chat.upgrade().send(wstest.Masked(wstest.Fin|wstest.Binary, ""))
		}
		ada.say("hello")
		bob.want("hello")
		time.Sleep(closeWait)
		chat.wantClients(2)
		close(release)
	})
}

// A stop takes no time when everyone hangs up, even for one that is made to wait before
// it may say more.
func TestStopIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, func(s *server) { s.rate = 0.1 })
		chat.join("")
		paced := chat.join("")
		for range 3 {
			paced.say("hurry")
		}
		synctest.Wait()
		begin := time.Now()
		chat.stop()
		chat.wantStopped()
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
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
