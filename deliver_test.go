package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/history"
	"chat/internal/protocol"
	"chat/internal/queue"
	"chat/internal/wstest"
)

// Batches that wait for a slow reader share frames of up to protocol.MaxFrame bytes.
func TestWaitingBatchesShareFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		slow := chat.upgrade()
		var sent []string
		for i := range 60 {
			line := fmt.Sprint(i, strings.Repeat(".", i*protocol.MaxText/60))
			ada.say(line)
			ada.want(line) // a batch of its own
			sent = append(sent, line)
		}
		var received []string
		for frames := 0; len(received) < len(sent); frames++ {
			_, payload, err := slow.next() // which fails for a frame above protocol.MaxFrame
			if err != nil {
				t.Fatal(err)
			}
			received = append(received, strings.Split(payload, "\n")...)
			if frames > 20 {
				t.Fatal("hardly anything shares a frame")
			}
		}
		if !slices.Equal(received, sent) {
			t.Error("received something else")
		}
	})
}

// Pieces share a frame as long as that has protocol.MaxFrame bytes and not one more. A
// ping shares no frame.
func TestFramesAreSharedUpToTheLimit(t *testing.T) {
	notice := func(size int) *batch { return newNotice(make([]byte, size)) }
	for _, row := range []struct {
		size int    // of the text before
		next *batch // in the queue, nil for none
		want bool
	}{
		{1000, notice(protocol.MaxFrame - 1001), true},
		{1000, notice(protocol.MaxFrame - 1000), false},
		{protocol.MaxFrame - 2, notice(1), true},
		{protocol.MaxFrame - 1, notice(1), false},
		{1000, ping, false},
		{0, notice(1000), false}, // after a ping
		{1000, nil, false},
	} {
		q := queue.New[*batch](1)
		if row.next != nil {
			q.Put(row.next)
		}
		out := pieceReader{queue: q, protocol: protocol.ChatV1}
		if got := out.canMerge(row.size); got != row.want {
			t.Errorf("after %d bytes: %v, want %v", row.size, got, row.want)
		}
	}
}

// A client that stops reading has writeWait for each frame of the write under way, to the
// full, and at most a tickPeriod more. Then it is disconnected; no close frame would get
// through.
func TestWriteDeadlines(t *testing.T) {
	for _, row := range []struct {
		what          string
		before, after int           // messages before and after the client joins, so long that no two share a frame
		reads         int           // frames that the client takes before it stops
		pause         time.Duration // before each of them
		limit         time.Duration
	}{
		{"a frame", 0, 1, 0, 0, writeWait},
		{"each frame of a replay", 5, 0, 2, writeWait - time.Second, writeWait},
		{"several frames in one write", 0, 20, 2, 0, (1 + maxCorked) * writeWait}, // the greeting and the first message go out alone
	} {
		onFakeTime(t, row.what, func(t *testing.T) {
			log := captureLog(t)
			chat := startChat(t, unlimited)
			ada := chat.join("")
			say := func(n int) {
				for range n {
					ada.say(strings.Repeat(`"`, protocol.MaxText)) // twice as long on chat.v1
					synctest.Wait()
				}
			}
			say(row.before)
			chat.network.Window = 1 << 10
			stuck := chat.upgradeTo("", protocol.ChatV1)
			time.Sleep(tickPeriod - time.Millisecond) // the next tick comes at once
			say(row.after)
			for range row.reads {
				time.Sleep(row.pause)
				stuck.next()
			}
			time.Sleep(row.limit)
			chat.wantClients(2)
			time.Sleep(tickPeriod)
			chat.wantClients(1)
			wantLogged(t, log, 1, "192.0.2.2:1234 disconnected: did not take a frame within 10s")
			stuck.wantGone(time.Second)
			ada.wantHere()
		})
	}
}

// A client that reads all the time over a slow connection stays, though pings wait behind
// what is on its way.
func TestASlowReaderStays(t *testing.T) {
	for _, rate := range []int{10_000, 20_000, 50_000} {
		synctest.Test(t, func(t *testing.T) {
			log := captureLog(t)
			chat := startChat(t, unlimited)
			ada := chat.join("")
			chat.upgrade().readSlowly(rate)
			time.Sleep(pingPeriod - 4*time.Second)
			for range 12 * rate / protocol.MaxText { // twelve seconds' worth
				ada.say(strings.Repeat("x", protocol.MaxText))
				synctest.Wait()
			}
			time.Sleep(pongWait)
			chat.wantClients(2)
			wantLogged(t, log, 0, "disconnected")
		})
	}
}

// A client on a very slow connection is behind by frames so long that no two share one.
// They go out in one write, which has writeWait for each. A ping meanwhile is answered,
// if late.
func TestAVerySlowReaderStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lines, rate = 6, 2000
		chat := startChat(t, unlimited)
		chat.network.Window = 16 << 10
		ada := chat.join("")
		conn := chat.upgradeTo("", protocol.ChatV1)
		slow := conn.readSlowly(rate)
		for range lines {
			ada.say(strings.Repeat(`"`, protocol.MaxText)) // two bytes each on chat.v1
			synctest.Wait()
		}
		time.Sleep(6 * time.Second) // now three are under way, for 12 s
		conn.sendFrame(wstest.Ping, "there?")
		time.Sleep(lines * 2 * protocol.MaxText / rate * time.Second)
		chat.wantClients(2)
		if n := slow.count(`"type":"message"`); n != lines {
			t.Errorf("received %d lines, want %d", n, lines)
		}
		if slow.count("there?") != 1 {
			t.Error("no pong")
		}
	})
}

// A pong may wait as long as a message. A client that pings while its connection is full
// has writeWait to read again.
func TestAPongWaitsBehindAMessage(t *testing.T) {
	for _, full := range []struct {
		by     string
		length int
	}{
		{"a message under way", protocol.MaxText},
		{"a message just written", 1<<10 - 4},
	} {
		onFakeTime(t, full.by, func(t *testing.T) {
			chat := startChat(t)
			ada := chat.join("")
			chat.network.Window = 1 << 10
			slow := chat.upgrade()
			line := strings.Repeat("x", full.length)
			ada.say(line)
			ada.want(line)
			slow.sendFrame(wstest.Ping, "there?")
			time.Sleep(writeWait - time.Second)
			chat.wantClients(2)
			if _, payload, err := slow.next(); payload != line {
				t.Errorf("received %.10q, %v", payload, err)
			}
			if first, payload, err := slow.next(); first != wstest.Fin|wstest.Pong || payload != "there?" {
				t.Errorf("%#x %.10q, %v instead of the pong", first, payload, err)
			}
		})
	}
}

// A client that breaks the protocol while its connection is full, and then reads, receives
// what was in its queue before the close frame, though the library wanted to send that at
// once.
func TestABreachBehindAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		rogue := chat.upgrade()
		for range 10 { // three share a frame
			ada.say(strings.Repeat("x", protocol.MaxText))
			synctest.Wait() // the first is being written alone
		}
		rogue.send("\x81\x01x") // without a mask
		time.Sleep(2 * time.Second)
		if frames := rogue.wantClosed(1002); frames < 3 {
			t.Errorf("%d frames before the close frame", frames)
		}
	})
}

// A client that breaks the protocol while it is being written to is told so, nothing follows,
// and it finds the close frame, for a while, though it goes on sending.
func TestABreachDuringAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		chat.network.Window = 1 << 10
		rogue := chat.upgrade()
		for range 10 {
			ada.say(strings.Repeat("x", protocol.MaxText))
			synctest.Wait() // the first is being written alone
		}
		rogue.send("\x81\x01x")
		synctest.Wait()
		rogue.next() // which was being written
		for range 5 {
			time.Sleep(lingerWait / 10)
			rogue.send(strings.Repeat("x", 20_000))
		}
		if frames := rogue.wantClosed(1002); frames != 0 {
			t.Errorf("%d frames before the close frame", frames)
		}
	})
}

// Answers to repeats are not copies of the messages: clients that do not read them cost
// their queues alone.
func TestRepeatsAreNotCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		chat.network.Window = 1 << 10
		tabs := make([]*raw, 100)
		for i := range tabs {
			tabs[i] = chat.upgradeTo("key=k", protocol.ChatV1)
		}
		tabs[0].sendFrame(wstest.Text, `{"text":"`+strings.Repeat(`"`, protocol.MaxText)+`","ref":"r"}`)
		synctest.Wait()
		kept, _ := memoryOf(func() {
			for _, tab := range tabs {
				tab.send(strings.Repeat(wstest.Masked(wstest.Fin|wstest.Text, `{"text":"x","ref":"r"}`), 90))
				synctest.Wait()
			}
		})
		if each := kept / len(tabs); each > 90*protocol.MaxText/4 {
			t.Errorf("the answers to one cost %d bytes", each)
		}
	})
}

// Nor is a replay. Many clients that come back at once and do not read do not hold up the
// room.
func TestReplaysAreNotCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada := chat.joinV1("")
		begin := ada.hello().ID
		for range 40 {
			ada.say(strings.Repeat("long", protocol.MaxText/4), "")
			synctest.Wait()
		}
		ada.take("")
		chat.network.Window = 4 << 10
		request := wstest.Handshake("chat.test", fmt.Sprint("/ws?after=", begin), "chat.v1")
		const many = 500
		kept, _ := memoryOf(func() {
			for range many {
				chat.dial().send(request)
			}
			synctest.Wait()
		})
		// Most of it is the in-memory network, and the frame that each is being written.
		if each := kept / many; each > history.MaxBytes/2 {
			t.Errorf("each costs %d bytes", each)
		}
		ada.say("still here", "")
		ada.want("still here")
		chat.wantClients(1 + many)
		time.Sleep(writeWait + time.Second)
		chat.wantClients(1)
	})
}

// lateLog is a log that hands nothing back before it is told to.
type lateLog struct {
	localLog
	isLate bool
}

func (l *lateLog) take() ([]committed, *protocol.Disconnect) {
	if l.isLate {
		return nil, nil
	}
	return l.localLog.take()
}

// A client that leaves waits until what it said is delivered, and no longer: what a slow consumer
// said before it was found to be one does not count.
func TestALeaveWaitsForItsMessagesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where the timer of a close handshake never fires
		log := &lateLog{localLog: localLog{history: history.New(time.Now(), 0)}, isLate: true}
		h := newHubOn(log)
		speaker, slow := joinHub(h, protocol.ChatV1), joinHub(h, protocol.ChatV1)
		h.broadcast <- message{sender: speaker, ClientMessage: protocol.ClientMessage{Text: "hello"}}
		h.publishWaiting()
		h.broadcast <- message{sender: slow, ClientMessage: protocol.ClientMessage{Text: "never"}}
		h.drop(slow, slowConsumer)
		h.leave(leave{speaker, goodbye})
		if !h.clients[speaker] {
			t.Error("the client has left before its message was delivered")
		}
		log.isLate = false
		h.publishWaiting()
		if h.clients[speaker] {
			t.Error("the client is still there")
		}
	})
}
