package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What one connection may and may not do, and that nobody else ever notices.

// Frames that no well-behaved client sends, by section of RFC 6455 and, where there is
// one, case of the Autobahn test suite. Whoever sends them is told what is wrong and let
// go; what it said before in whole messages counts, and nothing after.
var badFrames = []struct {
	rule string
	send string
	code int
}{
	{"5.1: unmasked", "\x81\x05hello", 1002},
	{"5.2, 3.1: RSV1 without an extension", masked(fin|0x40|text, "hello"), 1002},
	{"5.2, 3.2: RSV2", masked(fin|0x20|text, "hello"), 1002},
	{"5.2, 3.3: RSV2 and RSV1", masked(fin|0x60|text, "hello"), 1002},
	{"5.2, 3.4: RSV3", masked(fin|0x10|text, "hello"), 1002},
	{"5.2, 3.6: RSV on a ping", masked(fin|0x50|pingFrame, ""), 1002},
	{"5.2, 4.1: reserved data opcodes", masked(fin|0x3, ""), 1002},
	{"5.2, 4.1: the last of them", masked(fin|0x7, "hello"), 1002},
	{"5.2, 4.2: reserved control opcodes", masked(fin|0xB, ""), 1002},
	{"5.2, 4.2: the last of them", masked(fin|0xF, "hello"), 1002},
	{"5.4, 5.9: continuation of nothing", masked(fin|continuation, "hello"), 1002},
	{"5.4, 5.12: the same, not final", masked(continuation, "hello"), 1002},
	{"5.4, 5.18: text inside a fragmented message", masked(text, "he") + masked(fin|text, "llo"), 1002},
	{"5.5, 2.5: ping longer than 125 bytes", masked(fin|pingFrame, strings.Repeat("x", 126)), 1002},
	{"5.5, 5.1: fragmented ping", masked(pingFrame, "hello") + masked(fin|continuation, ""), 1002},
	{"5.5, 5.2: fragmented pong", masked(pongFrame, "hello") + masked(fin|continuation, ""), 1002},
	{"5.5, 7.3.6: close longer than 125 bytes", masked(fin|closeFrame, closing(1000, strings.Repeat("x", 124))), 1002},
	{"7.4, 7.9.1: close code 0", masked(fin|closeFrame, closing(0, "")), 1002},
	{"7.4, 7.9.2: close code 999", masked(fin|closeFrame, closing(999, "")), 1002},
	{"7.4, 7.9.3: close code 1004", masked(fin|closeFrame, closing(1004, "")), 1002},
	{"7.4, 7.9.4: close code 1005", masked(fin|closeFrame, closing(1005, "")), 1002},
	{"7.4, 7.9.5: close code 1006", masked(fin|closeFrame, closing(1006, "")), 1002},
	{"7.4, 7.9.9: close code 2999", masked(fin|closeFrame, closing(2999, "")), 1002},
	{"7.4, 7.13.1: close code 5000", masked(fin|closeFrame, closing(5000, "")), 1002},

	{"5.6: binary", masked(fin|binaryData, "hello"), 1003},
	{"5.6: binary, empty", masked(fin|binaryData, ""), 1003},
	{"5.6: binary in fragments", masked(binaryData, "he") + masked(fin|continuation, "llo"), 1003},

	{"8.1, 6.3.1: not UTF-8", masked(fin|text, "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"), 1007},
	{"8.1: two bytes", masked(fin|text, "\xff\xfe"), 1007},
	{"8.1, 6.4.1: not UTF-8, in fragments", masked(text, "caf") + masked(continuation, "\xc3") + masked(fin|continuation, "\x28"), 1007},
	{"8.1, 6.6: a code point cut off at the end", masked(fin|text, "caf\xc3"), 1007},
	{"8.1, 6.21: a surrogate", masked(fin|text, "\xed\xa0\x80"), 1007},

	{"10.4: one byte too long", masked(fin|text, strings.Repeat("x", maxText+1)), 1009},
	{"10.4: too long, in fragments", masked(text, strings.Repeat("x", maxText)) + masked(fin|continuation, "x"), 1009},
	{"10.4: much too long, and much more behind it", strings.Repeat(masked(fin|text, strings.Repeat("x", 40_000)), 20), 1009},
	{"10.4: a header that promises a terabyte", lying(fin|text, 1<<40, strings.Repeat("x", 2*maxText)), 1009},
	{"10.4: a fragment that promises all there is", masked(text, "x") + lying(fin|continuation, 1<<63-1, strings.Repeat("x", 2*maxText)), 1009},
	{"5.2, 10.4: a length with its first bit set", lying(fin|text, 1<<63, strings.Repeat("x", 2*maxText)), 1009},

	// Known differences: the library decides by itself.
	{"5.5.1, 7.3.2: close with one byte of payload is taken for an empty one, not for an error (1002)", masked(fin|closeFrame, "x"), 1000},
	{"7.4.2: close code 1014, registered since, is taken for an error, not answered in kind", masked(fin|closeFrame, closing(1014, "")), 1002},
	{"8.1, 7.5.1: a close reason that is not UTF-8 is an error of the protocol, not of the data (1007)", masked(fin|closeFrame, closing(1000, "\xff")), 1002},
}

func closing(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

func TestBadFrames(t *testing.T) {
	for _, bad := range badFrames {
		t.Run(bad.rule, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chat := startChat(t)
				ada := chat.join("")
				rogue := chat.upgrade()
				go rogue.Write([]byte(masked(fin|text, "before") + bad.send + masked(fin|text, "after")))
				rogue.wantClosed(bad.code)
				ada.want("before")
				ada.say("still here")
				ada.want("still here")
				chat.wantClients(1)
			})
		})
	}
}

// Frames that are unusual and fine, and what the room hears.
var goodFrames = []struct {
	rule string
	send string
	want []string
}{
	{"5.4, 5.3: fragments", masked(text, "he") + masked(continuation, "l") + masked(fin|continuation, "lo"), []string{"hello"}},
	{"5.4, 5.6: a ping between them", masked(text, "hel") + masked(fin|pingFrame, "!") + masked(fin|continuation, "lo"), []string{"hello"}},
	{"5.4, 6.2.3: UTF-8 cut by fragments", masked(text, "caf\xc3") + masked(fin|continuation, "\xa9"), []string{"café"}},
	{"5.4, 5.8: empty fragments", masked(text, "") + masked(continuation, "hello") + masked(fin|continuation, ""), []string{"hello"}},
	{"5.5.3, 2.7: a pong nobody asked for", masked(fin|pongFrame, "hm") + masked(fin|text, "hello"), []string{"hello"}},
	{"5.6, 1.1.1: empty, blank, all controls", masked(fin|text, "") + masked(fin|text, " \n\t ") + masked(fin|text, "\x00\x01\u2028"), nil},
	{"exactly as long as it may be", masked(fin|text, strings.Repeat("x", maxText)), []string{strings.Repeat("x", maxText)}},
	{"the longest, in the longest runes", masked(fin|text, strings.Repeat("😀", maxText/4)), []string{strings.Repeat("😀", maxText/4)}},
	{"several lines are one", masked(fin|text, "one\r\ntwo\u2029three\n"), []string{"one  two three"}},
	{"5.2: a length in more bytes than it needs", "\x81\xfe\x00\x05\x00\x00\x00\x00hello", []string{"hello"}},
}

func TestGoodFrames(t *testing.T) {
	for _, good := range goodFrames {
		t.Run(good.rule, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chat := startChat(t)
				ada := chat.join("")
				odd := chat.upgrade()
				odd.send(good.send)
				ada.want(good.want...)
				odd.send(masked(fin|closeFrame, closing(4321, "I am off")))
				odd.wantClosed(4321)
			})
		})
	}
}

// One goes on sending after it was told to go, and reads only then: the reason is
// still there, for a while.
func TestReasonOutlivesInput(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		rogue := chat.upgrade()
		for range 9 {
			rogue.send(masked(fin|binaryData, strings.Repeat("x", 20_000)))
			time.Sleep(lingerWait / 10)
		}
		rogue.wantClosed(1003)

		rude := chat.upgrade() // and never hangs up
		rude.send(masked(fin|binaryData, ""))
		time.Sleep(lingerWait)
		chat.wantClients(0)
	})
}

// However much a header promises, nothing is allocated for it.
func TestLyingLengthsCostNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		var before, after runtime.MemStats
		liars := make([]*raw, 50)
		for i := range liars {
			liars[i] = chat.upgrade()
		}
		runtime.ReadMemStats(&before)
		for _, liar := range liars {
			liar.send(lying(fin|text, 1<<40, "and?"))
		}
		synctest.Wait()
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / uint64(len(liars)); each > 4*maxText {
			t.Errorf("%d bytes allocated for each", each)
		}
		for _, liar := range liars {
			go liar.Write(make([]byte, 2*maxText))
			liar.wantClosed(1009)
		}
	})
}

// A message must be whole within pongWait, however lively its sender is meanwhile.
func TestNeverWhole(t *testing.T) {
	for _, meanwhile := range []struct{ what, send string }{
		{"silence", ""},
		{"empty fragments", strings.Repeat(masked(continuation, ""), 1000)},
		{"a byte at a time", masked(continuation, "x")},
		{"pings", masked(fin|pingFrame, "")},
		{"pongs", masked(fin|pongFrame, "")},
	} {
		t.Run(meanwhile.what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				log := logged(t)
				chat := startChat(t)
				ada := chat.join("")
				begin := time.Now()
				slow := chat.upgrade()
				slow.send(masked(text, "I was going to s"))
				go func() {
					for time.Since(begin) < 2*pongWait {
						if _, err := io.WriteString(slow.Conn, meanwhile.send); err != nil {
							return
						}
						time.Sleep(500 * time.Millisecond)
					}
				}()
				slow.wantClosed(1001)
				wantLogged(t, log, 1, "a message was not whole within 1m0s")
				if took := time.Since(begin); took < pongWait || took > pongWait+time.Second {
					t.Errorf("ended after %v, want %v", took, pongWait)
				}
				ada.say("and now?")
				ada.want("and now?")
				time.Sleep(pongWait)
			})
		})
	}
}

// Silence is counted from the last whole message, and a message's time from its beginning.
func TestSlowTalker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		slow := chat.upgrade()
		time.Sleep(50 * time.Second)
		slow.send(masked(text, "hel"))
		time.Sleep(50 * time.Second)
		slow.send(masked(fin|continuation, "lo"))
		time.Sleep(50 * time.Second)
		slow.send(masked(fin|text, "there?"))
		ada.want("hello", "there?")
		chat.wantClients(2)
	})
}

// One who listens over a slow line, all the time, is alive, though a ping must wait
// behind what is on its way.
func TestSlowListenerIsAlive(t *testing.T) {
	for _, rate := range []int{10_000, 20_000, 50_000} {
		bubble(t, func(t *testing.T) {
			log := logged(t)
			chat := startChat(t, unlimited)
			ada := chat.join("")
			chat.upgrade().readSlowly(rate)
			time.Sleep(pingPeriod - 4*time.Second)
			for range 12 * rate / maxText { // twelve seconds' worth
				ada.say(strings.Repeat("x", maxText))
				synctest.Wait()
			}
			time.Sleep(pongWait)
			chat.wantClients(2)
			wantLogged(t, log, 0, "dropped")
		})
	}
}

// One on a very slow line is behind by frames so long that no two fit into one. They go
// out in one write, which has as long for each as for one. A ping meanwhile is answered,
// if late.
func TestSlowLineFallsBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const lines, rate = 6, 1000
		chat := startChat(t, unlimited)
		chat.network.window = 16 << 10
		ada := chat.join("")
		conn := chat.upgradeTo("/ws", "chat.v1")
		slow := conn.readSlowly(rate)
		for range lines {
			ada.say(strings.Repeat(`"`, maxText)) // two bytes each on chat.v1
			synctest.Wait()
		}
		time.Sleep(12 * time.Second) // now three are under way, for 25 s
		conn.send(masked(fin|pingFrame, "there?"))
		time.Sleep(lines * 2 * maxText / rate * time.Second)
		chat.wantClients(2)
		if heard := slow.heard(`"type":"message"`); heard != lines {
			t.Errorf("heard %d lines, want %d", heard, lines)
		}
		if slow.heard("there?") != 1 {
			t.Error("no pong")
		}
	})
}

// tape is a connection that keeps what is written to it.
type tape struct {
	net.Conn
	heard bytes.Buffer
}

func (t *tape) Write(p []byte) (int, error) { return t.heard.Write(p) }

// What a cork holds back goes out in front of what comes next, at the latest with a control frame.
func TestCork(t *testing.T) {
	var tape tape
	conn := &corkedConn{Conn: &tape}
	for i, step := range []struct {
		cork         bool
		write, reads string
	}{
		{false, "\x81\x01a", "\x81\x01a"},
		{true, "\x81\x01b", ""},
		{true, "\x81\x01c", ""},
		{false, "\x81\x01d", "\x81\x01b\x81\x01c\x81\x01d"},
		{true, "\x81\x01e", ""},
		{true, "\x8a\x00", "\x81\x01e\x8a\x00"},
		{true, "\x88\x00", "\x88\x00"},
	} {
		conn.cork = step.cork
		if n, err := conn.Write([]byte(step.write)); n != len(step.write) || err != nil {
			t.Errorf("step %d: wrote %d, %v", i, n, err)
		}
		if got := string(tape.heard.Next(tape.heard.Len())); got != step.reads {
			t.Errorf("step %d: its peer reads %q, want %q", i, got, step.reads)
		}
	}
}

// One pings all the time and never reads a pong: it fills its own line and is let go.
// Meanwhile the others hear each other at once.
func TestPingFlood(t *testing.T) {
	for _, rate := range []float64{0, 10} {
		t.Run(fmt.Sprint("rate ", rate), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chat := startChat(t, func(s *server) { s.rate = rate })
				ada, bob := chat.join(""), chat.join("")
				flooder := chat.upgrade()
				go func() {
					for {
						if _, err := io.WriteString(flooder.Conn, masked(fin|pingFrame, strings.Repeat("!", 125))); err != nil {
							return
						}
					}
				}()
				for range 120 {
					time.Sleep(time.Second)
					ada.say("calm")
					bob.want("calm")
				}
				if rate == 0 {
					chat.wantClients(2)
				}
			})
		})
	}
}

// A pong waits for its turn as long as a message does: one whose line is full when it
// pings is not cut before writeWait, and goes on if it reads again in time.
func TestSlowReaderPings(t *testing.T) {
	for _, full := range []struct {
		by     string
		length int
	}{
		{"a message under way", maxText},
		{"a message just written", 1<<10 - 4},
	} {
		t.Run(full.by, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chat := startChat(t)
				ada := chat.join("")
				chat.network.window = 1 << 10
				slow := chat.upgrade()
				line := strings.Repeat("x", full.length)
				ada.say(line)
				ada.want(line)
				slow.send(masked(fin|pingFrame, "there?"))
				time.Sleep(writeWait - time.Second)
				chat.wantClients(2)
				if _, payload, err := slow.next(); payload != line {
					t.Errorf("heard %.10q, %v", payload, err)
				}
				if first, payload, err := slow.next(); first != fin|pongFrame || payload != "there?" {
					t.Errorf("%#x %.10q, %v instead of the pong", first, payload, err)
				}
			})
		})
	}
}

// Any ping keeps a connection alive that never answers ours, and is answered.
func TestPingIsLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		pinging := chat.upgrade()
		for i := range 10 {
			time.Sleep(50 * time.Second)
			pinging.send(masked(fin|pingFrame, fmt.Sprint(i)))
			for {
				first, payload, err := pinging.next()
				if err != nil {
					t.Fatal(err)
				}
				if first == fin|pongFrame && payload == fmt.Sprint(i) {
					break
				}
			}
		}
		chat.wantClients(1)
	})
}

// The pace: a burst passes at once, what follows comes at the rate, and a pause
// gives a new burst.
func TestPace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")
		go func() {
			for i := range 200 {
				ada.say(fmt.Sprint(i))
			}
		}()
		if n := len(bob.take()); n != 100 {
			t.Errorf("%d lines at once, want 100", n)
		}
		time.Sleep(5 * time.Second)
		if n := len(bob.take()); n != 50 {
			t.Errorf("%d lines in five seconds, want 50", n)
		}
		time.Sleep(time.Minute)
		if n := len(bob.take()); n != 50 {
			t.Errorf("%d lines in the next minute, want the last 50", n)
		}
		for i := range 100 {
			bob.say(fmt.Sprint(i))
		}
		if n := len(ada.take()); n != 300 {
			t.Errorf("heard %d lines in all, want 300", n)
		}
	})
}

// A ping costs as much as a message.
func TestPacedPings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		pinging := chat.upgrade()
		pinging.send(strings.Repeat(masked(fin|pingFrame, ""), 1000))
		begin := time.Now()
		for range 150 {
			if first, _, err := pinging.next(); first != fin|pongFrame {
				t.Fatalf("%#x, %v", first, err)
			}
		}
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("150 pongs took %v, want 5s: a burst of 100, then 10 a second", took)
		}
	})
}

// Who pings and leaves has left: nobody dropped it.
func TestPingAndLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log := logged(t)
		chat := startChat(t)
		conn := chat.upgrade()
		conn.send(masked(fin|pingFrame, "?"))
		conn.Close()
		chat.wantClients(0)
		time.Sleep(time.Second)
		wantLogged(t, log, 0, "dropped")
	})
}

// One that only shuts its own side down still hears goodbye.
func TestHalfClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		half := chat.upgrade()
		half.Conn.(*conn).CloseWrite()
		half.wantClosed(1000)
	})
}

// One joins in the moment in which the hub stops: it is told, too.
func TestJoinsAsTheHubStops(t *testing.T) {
	bubble(t, func(t *testing.T) {
		late := &chat{t: t, server: newServer(nil, 0, 10), network: newNetwork()}
		ctx, stop := context.WithCancel(t.Context())
		late.rooms = newRooms(ctx, late.log, late.counters)
		stop()
		late.rooms.running.Wait()
		web := &http.Server{Handler: http.HandlerFunc(late.serveWs)}
		go web.Serve(late.network)
		defer web.Close()
		late.upgrade().wantClosed(1001)
		late.wantClients(0)
	})
}

// Peers decide what is in a name, so the log quotes it.
func TestNamesAreQuotedInTheLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log := logged(t)
		chat := startChat(t)
		chat.join(`%22Ada%22%0A%1b[31m`).conn.WriteMessage(2, nil)
		synctest.Wait()
		wantLogged(t, log, 1, `192.0.2.2:1234 ("\"Ada\"[31m") dropped: only text is said here`+"\n")
	})
}
