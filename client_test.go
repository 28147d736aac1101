package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

// What one client may and may not do, and that the others never notice.

// A client that breaks a rule is told why and disconnected. What it sent before counts,
// nothing after, and nobody else notices.
func TestBreaches(t *testing.T) {
	for _, breach := range wstest.Breaches {
		onFakeTime(t, breach.Rule, func(t *testing.T) {
			chat := startChat(t)
			ada := chat.join("")
			before, after, proto := "before", "after", protocol.Classic
			if breach.Subprotocol != "" {
				before, after, proto = `{"text":"before"}`, `{"text":"after"}`, protocol.ChatV1
			}
			rogue := chat.upgradeTo("", proto)
			go rogue.Write([]byte(wstest.Masked(wstest.Fin|wstest.Text, before) + breach.Send + wstest.Masked(wstest.Fin|wstest.Text, after)))
			rogue.wantClosed(breach.Code)
			ada.want("before")
			ada.say("still here")
			ada.want("still here")
			chat.wantClients(1)
		})
	}
}

// What few clients send, and may, is received as it was meant.
func TestOddities(t *testing.T) {
	for _, good := range wstest.Oddities {
		onFakeTime(t, good.Rule, func(t *testing.T) {
			chat := startChat(t)
			ada := chat.join("")
			odd := chat.upgrade()
			odd.send(good.Send)
			ada.want(good.Lines...)
			odd.sendFrame(wstest.Close, wstest.Closing(4321, "I am off"))
			odd.wantClosed(4321)
		})
	}
}

// A client that goes on sending after it was disconnected, and reads only then, still
// finds the close frame, for lingerWait.
func TestTheCloseFrameOutlivesInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		rogue := chat.upgrade()
		for range 9 {
			rogue.sendFrame(wstest.Binary, strings.Repeat("x", 20_000))
			time.Sleep(lingerWait / 10)
		}
		rogue.wantClosed(1003)

		rude := chat.upgrade() // and never hangs up
		rude.sendFrame(wstest.Binary, "")
		time.Sleep(lingerWait)
		chat.wantClients(0)
	})
}

// Nothing is allocated for a length that a header promises.
func TestPromisedLengthsCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		liars := make([]*raw, 50)
		for i := range liars {
			liars[i] = chat.upgrade()
		}
		_, allocated := memoryOf(func() {
			for _, liar := range liars {
				liar.send(wstest.Lying(wstest.Fin|wstest.Text, 1<<40, "and?"))
			}
			synctest.Wait()
		})
		if each := allocated / len(liars); each > 4*protocol.MaxText {
			t.Errorf("%d bytes allocated for each", each)
		}
		for _, liar := range liars {
			go liar.Write(make([]byte, 2*protocol.MaxText))
			liar.wantClosed(1009)
		}
	})
}

// A message must be complete within pongWait, whatever its sender does meanwhile.
func TestAMessageThatIsNeverComplete(t *testing.T) {
	for _, meanwhile := range []struct{ what, send string }{
		{"silence", ""},
		{"empty fragments", strings.Repeat(wstest.Masked(wstest.Continuation, ""), 1000)},
		{"a byte at a time", wstest.Masked(wstest.Continuation, "x")},
		{"pings", wstest.Masked(wstest.Fin|wstest.Ping, "")},
		{"pongs", wstest.Masked(wstest.Fin|wstest.Pong, "")},
	} {
		onFakeTime(t, meanwhile.what, func(t *testing.T) {
			log := captureLog(t)
			chat := startChat(t)
			ada := chat.join("")
			begin := time.Now()
			slow := chat.upgrade()
			slow.send(wstest.Masked(wstest.Text, "I was going to s"))
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
			ada.say("still here")
			ada.want("still here")
			time.Sleep(pongWait)
		})
	}
}

// Silence counts from the last complete message, and a message's time from its first frame.
func TestASlowSenderStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		slow := chat.upgrade()
		time.Sleep(50 * time.Second)
		slow.send(wstest.Masked(wstest.Text, "hel"))
		time.Sleep(50 * time.Second)
		slow.sendFrame(wstest.Continuation, "lo")
		time.Sleep(50 * time.Second)
		slow.sendFrame(wstest.Text, "there?")
		ada.want("hello", "there?")
		chat.wantClients(2)
	})
}

// A client that pings all the time and never reads a pong fills its own connection and is
// disconnected. Meanwhile the others receive each other's messages at once.
func TestAPingFlood(t *testing.T) {
	for _, rate := range []float64{0, 10} {
		onFakeTime(t, fmt.Sprint("rate ", rate), func(t *testing.T) {
			chat := startChat(t, func(s *server) { s.rate = rate })
			ada, bob := chat.join(""), chat.join("")
			flooder := chat.upgrade()
			go func() {
				for {
					if _, err := io.WriteString(flooder.Conn, wstest.Masked(wstest.Fin|wstest.Ping, strings.Repeat("!", 125))); err != nil {
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
	}
}

// Every client is pinged once in a pingPeriod.
func TestPings(t *testing.T) {
	for p := range protocol.NumProtocols {
		onFakeTime(t, p.String(), func(t *testing.T) {
			chat := startChat(t)
			begin := time.Now()
			conn := chat.upgradeTo("", p)
			for pings := 0; pings < 5; {
				first, _, err := conn.next()
				if err != nil {
					t.Fatal(err)
				}
				if first != wstest.Fin|wstest.Ping {
					continue // a notice
				}
				pings++
				if at := time.Since(begin); at != time.Duration(pings)*pingPeriod {
					t.Errorf("ping %d came after %v", pings, at)
				}
				conn.sendFrame(wstest.Pong, "")
			}
		})
	}
}

// A ping is answered, and keeps a client connected that does not answer the server's.
func TestAPingShowsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		pinging := chat.upgrade()
		for i := range 10 {
			time.Sleep(50 * time.Second)
			pinging.sendFrame(wstest.Ping, fmt.Sprint(i))
			for {
				first, payload, err := pinging.next()
				if err != nil {
					t.Fatal(err)
				}
				if first == wstest.Fin|wstest.Pong && payload == fmt.Sprint(i) {
					break
				}
			}
		}
		chat.wantClients(1)
	})
}

// A burst passes at once, what follows comes at the rate, and a pause gives a new burst.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")
		paste := func() {
			for i := range 200 {
				ada.say(fmt.Sprint(i))
			}
		}
		go paste()
		for _, step := range []struct {
			after time.Duration
			lines int
		}{
			{0, 100},
			{5 * time.Second, 50},
			{time.Minute, 50},
		} {
			time.Sleep(step.after)
			if n := len(bob.texts()); n != step.lines {
				t.Errorf("%d lines after %v more, want %d", n, step.after, step.lines)
			}
		}
		go paste()
		if n := len(bob.texts()); n != 100 {
			t.Errorf("%d lines at once after a pause, want 100", n)
		}
	})
}

// The log says once that a client is throttled: when that has lasted for
// throttleLogAfter. It says so again after the client was not throttled for a while.
func TestThrottlingIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		ada := chat.join("")
		paste := func(lines int) {
			go func() {
				for range lines {
					ada.say("hello")
				}
			}()
		}
		paste(150) // throttled for 5 s
		time.Sleep(time.Minute)
		wantLogged(t, log, 0, "throttled")
		for n := range 2 {
			paste(300) // throttled for 20 s
			time.Sleep(throttleLogAfter - time.Millisecond)
			wantLogged(t, log, n, "throttled")
			time.Sleep(time.Minute)
			wantLogged(t, log, n+1, "throttled")
		}
	})
}

// A ping costs as much as a message.
func TestPingsCountForTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		pinging := chat.upgrade()
		pinging.send(strings.Repeat(wstest.Masked(wstest.Fin|wstest.Ping, ""), 1000))
		begin := time.Now()
		for range 150 {
			if first, _, err := pinging.next(); first != wstest.Fin|wstest.Pong {
				t.Fatalf("%#x, %v", first, err)
			}
		}
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("150 pongs took %v, want 5s: a burst of 100, then 10 a second", took)
		}
	})
}

// A client that pings and leaves has left by itself, though its pong cannot be written.
func TestPingAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		conn := chat.upgrade()
		conn.sendFrame(wstest.Ping, "?")
		conn.Close()
		chat.wantClients(0)
		time.Sleep(time.Second)
		wantLogged(t, log, 0, "disconnected")
	})
}

// A peer that shuts down its side of the connection alone receives the close frame.
func TestHalfClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		half := chat.upgrade()
		half.Conn.(*wstest.Conn).CloseWrite()
		half.wantClosed(1000)
	})
}

// A peer decides what is in its name, so the log quotes it.
func TestNamesAreQuotedInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		chat.join(`name=%22Ada%22%0A%1b[31m`).conn.WriteMessage(2, nil)
		synctest.Wait()
		wantLogged(t, log, 1, `192.0.2.2:1234 ("\"Ada\"[31m") disconnected: only text is said here`+"\n")
	})
}

// When nothing is left of a connection, its timer is stopped: it would keep the memory of
// clients that come and go fast for closeWait.
func TestTheCloseTimerIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("")
		var client *Client // the hub's side
		for client = range chat.rooms.named[lobby].hub.clients {
		}
		ada.leave()
		chat.wantClients(0)
		if client.closeTimer.Stop() {
			t.Error("the timer runs")
		}
	})
}
