package cork

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// tape is a connection that keeps what is written to it, write by write, and passes it on if
// there is another.
type tape struct {
	net.Conn
	writes    [][]byte
	deadlines []time.Time
	err       error
}

func (t *tape) Write(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	t.writes = append(t.writes, bytes.Clone(p))
	if t.Conn != nil {
		return t.Conn.Write(p)
	}
	return len(p), nil
}

func (t *tape) SetWriteDeadline(deadline time.Time) error {
	t.deadlines = append(t.deadlines, deadline)
	return nil
}

// sent returns what was written since it was last asked.
func (t *tape) sent() string {
	all := string(bytes.Join(t.writes, nil))
	t.writes = nil
	return all
}

// What is held back goes out before what comes next, of either party.
func TestHold(t *testing.T) {
	var out tape
	conn := New(&out)
	for i, step := range []struct {
		library, hold bool
		write, sent   string
	}{
		{false, false, "\x81\x01a", "\x81\x01a"},
		{false, true, "\x81\x01b", ""},
		{false, true, "\x81\x01c", ""},
		{false, false, "\x81\x01d", "\x81\x01b\x81\x01c\x81\x01d"},
		{false, true, "\x81\x01e", ""},
		{true, false, "\x8a\x00", "\x81\x01e\x8a\x00"},
		{true, false, "\x8a\x00", "\x8a\x00"},
		{false, false, "\x81\x01f", "\x81\x01f"},
	} {
		var err error
		if step.library {
			_, err = conn.Write([]byte(step.write))
		} else {
			err = conn.WriteFrame([]byte(step.write), step.hold)
		}
		if got := out.sent(); got != step.sent || err != nil {
			t.Errorf("step %d: sent %q, %v, want %q", i, got, err, step.sent)
		}
	}
}

// Nothing follows a close frame, whoever has written it. An answer to a handshake is none, though its first byte has
// the opcode of one.
func TestNothingFollowsAClose(t *testing.T) {
	for _, library := range []bool{false, true} {
		var out tape
		conn := New(&out)
		if _, err := conn.Write([]byte("HTTP/1.1 101 Switching Protocols")); err != nil {
			t.Error(err)
		}
		conn.WriteFrame([]byte("\x81\x01a"), true)
		var err error
		if library {
			_, err = conn.Write([]byte("\x88\x00"))
		} else {
			err = conn.WriteFrame([]byte("\x88\x00"), false)
		}
		if got := out.sent(); err != nil || !strings.HasSuffix(got, "\x81\x01a\x88\x00") {
			t.Errorf("sent %q, %v", got, err)
		}
		for _, hold := range []bool{false, true} {
			if err := conn.WriteFrame([]byte("\x81\x01b"), hold); err != ErrCloseSent {
				t.Errorf("a frame, held: %v: %v", hold, err)
			}
		}
		if _, err := conn.Write([]byte("\x8a\x00")); err != ErrCloseSent {
			t.Errorf("a pong: %v", err)
		}
		if got := out.sent(); got != "" {
			t.Errorf("then sent %q", got)
		}
	}
}

// A write that fails may have cut a frame: nothing can follow it, of either party.
func TestNothingFollowsAFailure(t *testing.T) {
	for _, library := range []bool{false, true} {
		broken := errors.New("broken")
		out := tape{err: broken}
		conn := New(&out)
		conn.WriteFrame([]byte("\x81\x01a"), true)
		write := func() (err error) {
			if library {
				_, err = conn.Write([]byte("\x8a\x00"))
				return err
			}
			return conn.WriteFrame([]byte("\x81\x01b"), false)
		}
		if err := write(); err != broken {
			t.Errorf("failed with %v", err)
		}
		out.err = nil
		library = !library
		if err := write(); err != broken || out.sent() != "" {
			t.Errorf("after a failure: %v", err)
		}
	}
}

// A deadline is for what the library writes, and not for our frames. One is set only where
// that changes something.
func TestDeadlines(t *testing.T) {
	var out tape
	conn := New(&out)
	first := time.Now().Add(time.Hour)
	second := first.Add(time.Hour)
	for i, step := range []struct {
		library bool
		set     time.Time
		want    []time.Time
	}{
		{false, time.Time{}, nil},
		{true, time.Time{}, nil},
		{true, first, []time.Time{first}},
		{true, second, []time.Time{second}},
		{false, second, []time.Time{{}}},
		{false, second, nil},
		{true, second, []time.Time{second}},
		{true, time.Time{}, []time.Time{{}}},
	} {
		conn.SetWriteDeadline(step.set)
		if step.library {
			conn.Write([]byte("\x8a\x00"))
		} else {
			conn.WriteFrame([]byte("\x81\x01a"), false)
		}
		if !slices.Equal(out.deadlines, step.want) {
			t.Errorf("step %d: deadlines %v were set, want %v", i, out.deadlines, step.want)
		}
		out.deadlines = nil
	}
}

// The deadline of the library also counts while another frame is being written. That a pong
// was not written is no reason not to write what comes then.
func TestDeadlineWhileAFrameIsWritten(t *testing.T) {
	here, peer := net.Pipe()
	conn := New(here)
	written := make(chan error)
	go func() { written <- conn.WriteFrame([]byte("\x81\x01a"), false) }()
	got := make([]byte, 6)
	io.ReadFull(peer, got[:1])
	conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
	if _, err := conn.Write([]byte("\x8a\x00")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a pong: %v", err)
	}
	go func() { written <- conn.WriteFrame([]byte("\x81\x01b"), false) }()
	io.ReadFull(peer, got[1:])
	if err := errors.Join(<-written, <-written); err != nil || string(got) != "\x81\x01a\x81\x01b" {
		t.Errorf("sent %q, %v", got, err)
	}
}

// Frames of both parties, written at the same time, arrive whole and in the order of each.
func TestFramesAreWhole(t *testing.T) {
	const many = 1000
	here, peer := net.Pipe()
	conn := New(here)
	go func() {
		for i := range many {
			if err := conn.WriteFrame(fmt.Appendf(nil, "\x81\x04%04d", i), i%3 > 0 && i < many-1); err != nil {
				t.Error(err)
			}
		}
	}()
	go func() {
		for i := range many {
			conn.SetWriteDeadline(time.Now().Add(time.Minute))
			if _, err := conn.Write(fmt.Appendf(nil, "\x8a\x04%04d", i)); err != nil {
				t.Error(err)
			}
		}
	}()
	var frames, pongs int
	for range 2 * many {
		var frame [6]byte
		for i := range frame { // as slow as possible
			if _, err := io.ReadFull(peer, frame[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		switch string(frame[:]) {
		case fmt.Sprintf("\x81\x04%04d", frames):
			frames++
		case fmt.Sprintf("\x8a\x04%04d", pongs):
			pongs++
		default:
			t.Fatalf("%q after %d frames and %d pongs", frame, frames, pongs)
		}
	}
}

// hijacker corks the connection that the library takes over.
type hijacker struct {
	http.ResponseWriter
	out *tape
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.out = &tape{Conn: conn}
	return New(h.out), buffered, err
}

// The library writes the answer to a handshake and each control frame with one Write, as the
// package relies on.
func TestOneWriteAFrame(t *testing.T) {
	writes := make(chan []string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hijack := &hijacker{ResponseWriter: w}
		conn, err := new(websocket.Upgrader).Upgrade(hijack, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for _, messageType := range []int{websocket.PingMessage, websocket.PongMessage, websocket.CloseMessage} {
			if err := conn.WriteControl(messageType, make([]byte, 125), time.Now().Add(time.Second)); err != nil {
				t.Error(err)
			}
		}
		var first []string
		for _, p := range hijack.out.writes {
			first = append(first, fmt.Sprintf("%.1q of %d bytes", p, len(p)))
		}
		writes <- first
	}))
	defer server.Close()
	conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := len("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	want := []string{fmt.Sprintf(`"H" of %d bytes`, answer), `"\x89" of 127 bytes`, `"\x8a" of 127 bytes`, `"\x88" of 127 bytes`}
	if got := <-writes; !slices.Equal(got, want) {
		t.Errorf("writes %q, want %q", got, want)
	}
}
