package cork

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// tape is a connection that keeps what is written to it, write by write.
type tape struct {
	net.Conn
	writes    [][]byte
	deadlines int
	err       error
}

func (t *tape) Write(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	t.writes = append(t.writes, bytes.Clone(p))
	return len(p), nil
}

func (t *tape) SetWriteDeadline(time.Time) error { t.deadlines++; return nil }

// sent returns what was written since it was last asked.
func (t *tape) sent() string {
	all := string(bytes.Join(t.writes, nil))
	t.writes = nil
	return all
}

// What is held goes out before what comes next, at the latest with a control frame.
func TestHold(t *testing.T) {
	var out tape
	conn := &Conn{Conn: &out}
	for i, step := range []struct {
		hold        bool
		write, sent string
	}{
		{false, "\x81\x01a", "\x81\x01a"},
		{true, "\x81\x01b", ""},
		{true, "\x81\x01c", ""},
		{false, "\x81\x01d", "\x81\x01b\x81\x01c\x81\x01d"},
		{true, "\x81\x01e", ""},
		{true, "\x8a\x00", "\x81\x01e\x8a\x00"},
		{true, "\x88\x00", "\x88\x00"},
		{false, "", ""},
	} {
		conn.Hold(step.hold)
		if n, err := conn.Write([]byte(step.write)); n != len(step.write) || err != nil {
			t.Errorf("step %d: wrote %d, %v", i, n, err)
		}
		if got := out.sent(); got != step.sent {
			t.Errorf("step %d: sent %q, want %q", i, got, step.sent)
		}
	}
}

// A write that fails loses what was held, and says so.
func TestHeldWriteFails(t *testing.T) {
	out := tape{err: errors.New("broken")}
	conn := &Conn{Conn: &out}
	conn.Hold(true)
	conn.Write([]byte("\x81\x01a"))
	conn.Hold(false)
	if n, err := conn.Write([]byte("\x81\x01b")); n != 0 || err != out.err {
		t.Errorf("wrote %d, %v", n, err)
	}
}

// Only a deadline that changes something is set.
func TestDeadlines(t *testing.T) {
	var out tape
	conn := &Conn{Conn: &out}
	for i, step := range []struct {
		deadline time.Time
		calls    int
	}{
		{time.Time{}, 0},
		{time.Unix(1, 0), 1},
		{time.Unix(2, 0), 2},
		{time.Time{}, 3},
		{time.Time{}, 3},
	} {
		if conn.SetWriteDeadline(step.deadline); out.deadlines != step.calls {
			t.Errorf("step %d: %d deadlines were set, want %d", i, out.deadlines, step.calls)
		}
	}
}

// hijacker corks the connection that the library takes over.
type hijacker struct {
	http.ResponseWriter
	conn *Conn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = &Conn{Conn: conn}
	return h.conn, buffered, err
}

// The library writes each frame with one Write, as the package relies on: a prepared one
// of any length, and one that is built in a write buffer of the longest payload's size.
func TestOneWriteAFrame(t *testing.T) {
	const longest = 16 << 10
	prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, make([]byte, longest))
	if err != nil {
		t.Fatal(err)
	}
	writes := make(chan int, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hijack := &hijacker{ResponseWriter: w}
		upgrader := websocket.Upgrader{WriteBufferSize: longest}
		conn, err := upgrader.Upgrade(hijack, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		out := &tape{Conn: hijack.conn.Conn}
		hijack.conn.Conn = out
		count := func(write func() error) {
			if err := write(); err != nil {
				t.Error(err)
			}
			writes <- len(out.writes)
			out.writes = nil
		}
		count(func() error { return conn.WritePreparedMessage(prepared) })
		count(func() error {
			w, err := conn.NextWriter(websocket.TextMessage)
			for range longest / 1024 {
				w.Write([]byte(strings.Repeat("x", 1024)))
			}
			return errors.Join(err, w.Close())
		})
		count(func() error {
			return conn.WriteControl(websocket.PingMessage, make([]byte, 125), time.Now().Add(time.Second))
		})
	}))
	defer server.Close()
	conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, what := range []string{"a prepared message", "a message in parts", "a ping"} {
		if n := <-writes; n != 1 {
			t.Errorf("%s took %d writes", what, n)
		}
	}
}
