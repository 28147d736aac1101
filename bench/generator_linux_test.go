package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/protocol"
)

// A testRoom sends every line to everyone, in one order, unless alter makes something
// else of it: for a client, in order of their joining, and after so many lines.
type testRoom struct {
	alter func(client, before int, line string) []string

	mu      sync.Mutex
	clients []*websocket.Conn
	lines   int
}

func (r *testRoom) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	conn, err := new(websocket.Upgrader).Upgrade(w, request, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	r.mu.Lock()
	r.clients = append(r.clients, conn)
	r.mu.Unlock()
	for {
		_, line, err := conn.ReadMessage()
		if err != nil {
			return
		}
		r.broadcast(string(line))
	}
}

func (r *testRoom) broadcast(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, conn := range r.clients {
		lines := []string{line}
		if r.alter != nil {
			lines = r.alter(i, r.lines, line)
		}
		if lines != nil {
			conn.WriteMessage(websocket.TextMessage, []byte(strings.Join(lines, "\n")))
		}
	}
	r.lines++
}

const last = 19 // the client that the tests treat differently

// short is a load in which at least eight lines are sent, however slow this machine is.
var short = loadSpec{
	listeners: last + 1, speakers: 4, inFlight: 2,
	settle: 10 * time.Millisecond, warmUp: 10 * time.Millisecond, window: 30 * time.Millisecond, idleTimeout: 2 * time.Second,
}

// load puts the room under a load.
func (r *testRoom) load(t *testing.T, spec loadSpec) result {
	t.Helper()
	server := httptest.NewServer(r)
	defer server.Close()
	result, err := generate(t.Context(), spec, netip.MustParseAddrPort(server.Listener.Addr().String()), os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestHonestRoom(t *testing.T) {
	r := new(testRoom).load(t, short)
	if r.fault != "" || r.joined != last+1 || r.disconnected != 0 || r.cpu <= 0 || r.ownCPU <= 0 {
		t.Errorf("%+v", r)
	}
}

// What is due while the server stalls is sent all the same, and its latency counts from
// when it was due.
func TestFixedRate(t *testing.T) {
	const stall = 20 * time.Millisecond
	room := &testRoom{alter: func(client, before int, line string) []string {
		if client == last && before == 25 { // in the window
			time.Sleep(stall)
		}
		return []string{line}
	}}
	spec := short
	spec.rate, spec.window = 1000, 50*time.Millisecond
	r := room.load(t, spec)
	room.mu.Lock()
	defer room.mu.Unlock()
	if r.fault != "" || room.lines != 60 || r.p99 < stall/2 || r.p50 <= 0 {
		t.Errorf("%d lines, latency %v median, %v p99, %v", room.lines, r.p50, r.p99, r)
	}
}

func TestFaults(t *testing.T) {
	var kept string
	for what, lie := range map[string]func(client, before int, line string) []string{
		"drops a line for one": func(client, before int, line string) []string { return unless(client == last && before == 5, line) },
		"falls silent for one": func(client, before int, line string) []string { return unless(client == last && before >= 5, line) },
		"falls silent for all": func(_, before int, line string) []string { return unless(before >= 5, line) },
		"doubles a line": func(client, before int, line string) []string {
			return append(unless(client != last || before != 5, line), line)
		},
		"swaps two lines": func(client, before int, line string) []string {
			if client == last && before == 6 {
				return []string{line, kept}
			}
			if before == 5 {
				kept = line
			}
			return unless(client == last && before == 5, line)
		},
	} {
		spec := short
		spec.idleTimeout = 50 * time.Millisecond
		if r := (&testRoom{alter: lie}).load(t, spec); r.fault == "" {
			t.Errorf("a room that %s: no fault in %+v", what, r)
		}
	}
}

// unless returns a line, or none if drop is true.
func unless(drop bool, line string) []string {
	if drop {
		return nil
	}
	return []string{line}
}

func TestDisconnectedClientIsNoFault(t *testing.T) {
	room := new(testRoom)
	room.alter = func(client, before int, line string) []string {
		if client == last && before == 5 {
			room.clients[3].Close()
		}
		return []string{line}
	}
	if r := room.load(t, short); r.fault != "" || r.disconnected != 1 {
		t.Errorf("%d disconnected, %v", r.disconnected, r)
	}
}

func TestMissingSubprotocolIsAFault(t *testing.T) {
	spec := short
	spec.subprotocol = protocol.Subprotocol
	if r := new(testRoom).load(t, spec); r.fault != "does not speak chat.v1" {
		t.Errorf("%+v", r)
	}
}
