package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/connlimit"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// A stop does not wait for peers that will never answer: here one has sent nothing yet, one
// half a request, one does not read, one is cut off, and one is throttled.
func TestAStopWaitsForNoPeer(t *testing.T) {
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

// A stop waits for handshakes under way, which end after handshakeTimeout. A client whose
// handshake ends just before that is told that the server stops. It has lingerWait to read
// that and hang up.
func TestAStopDuringAHandshake(t *testing.T) {
	const last64 = len("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: \r\n\r\n") +
		len(wstest.HandshakeAnswer) - 64 // where they begin in the answer
	for _, peer := range []struct {
		reads int // bytes of the answer, a millisecond before handshakeTimeout; the rest fills the window
		took  time.Duration
	}{
		{0, handshakeTimeout},
		{last64, handshakeTimeout - time.Millisecond + lingerWait},
	} {
		synctest.Test(t, func(t *testing.T) {
			chat := startChat(t)
			chat.network.Window = 64
			conn := chat.dial()
			conn.send(handshake)
			synctest.Wait()
			begin := time.Now()
			chat.stop()
			time.Sleep(handshakeTimeout - time.Millisecond)
			if _, err := io.ReadFull(conn, make([]byte, peer.reads)); err != nil {
				t.Fatal(err)
			}
			chat.wantStopped()
			if took := time.Since(begin); took != peer.took {
				t.Errorf("after %d bytes of the answer the stop took %v, want %v", peer.reads, took, peer.took)
			}
		})
	}
}

// At a stop a slow reader gets what is in its queue, as fast as it reads.
func TestAStopWithASlowReader(t *testing.T) {
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
			t.Error("the reader was not told")
		}
	})
}

// A log that blocks, as a terminal does while text is selected in it, holds up no client.
func TestTheLogBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		log.SetOutput(writerFunc(func(p []byte) (int, error) { <-release; return len(p), nil }))
		defer log.SetOutput(io.Discard)
		chat := startChat(t)
		ada, bob := chat.join(""), chat.join("")
		for range 10 {
			chat.upgrade().sendFrame(wstest.Binary, "")
		}
		ada.say("hello")
		bob.want("hello")
		time.Sleep(closeWait)
		chat.wantClients(2)
		close(release)
	})
}

// A stop takes no time when all clients hang up, throttled ones too. It is told in every
// room.
func TestAStopIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, func(s *server) { s.rate = 0.1 })
		people := []*person{chat.join("")}
		for i := range 20 {
			people = append(people, chat.join(fmt.Sprint("room=room", i)))
		}
		for range 3 {
			people[0].say("hurry")
		}
		synctest.Wait()
		begin := time.Now()
		chat.stop()
		chat.wantStopped()
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		for _, p := range people {
			p.wantClosed(1001, "the server is stopping")
		}
	})
}

// A client that joins as the hub stops is told, too.
func TestJoiningAsTheHubStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := &chat{t: t, server: newServer(nil, 0, 10), network: wstest.NewNetwork()}
		ctx, stop := context.WithCancel(t.Context())
		late.start(ctx)
		stop()
		late.rooms.running.Wait()
		late.conns = connlimit.New(late.network, 10)
		httpServer := &http.Server{ConnState: late.conns.ConnState, Handler: http.HandlerFunc(late.handleWs)}
		go httpServer.Serve(late.conns)
		defer httpServer.Close()
		late.upgrade().wantClosed(1001)
		late.wantClients(0)
	})
}

// If a listener fails, the server stops as it would for a signal, and serve returns why.
func TestAListenerFails(t *testing.T) {
	for i, which := range []string{"the chat's", "the metrics'"} {
		onFakeTime(t, which, func(t *testing.T) {
			listeners := []*wstest.Network{wstest.NewNetwork(), wstest.NewNetwork()}
			chat := &chat{t: t, server: newServer(nil, 0, 10), network: listeners[0], stopped: make(chan error, 1)}
			go func() { chat.stopped <- chat.serve(t.Context(), listeners[0], listeners[1]) }()
			ada := chat.join("")
			listeners[i].Close()
			if err := <-chat.stopped; !errors.Is(err, net.ErrClosed) {
				t.Errorf("serve returned %v", err)
			}
			ada.wantClosed(1001, "the server is stopping")
		})
	}
}
