package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"chat/internal/protocol"
)

// First bytes of frames: RFC 6455, section 5.2.
const (
	fin = 0x80

	continuation = 0x0
	text         = 0x1
	binaryData   = 0x2
	closeFrame   = 0x8
	pingFrame    = 0x9
)

// unheard begins what is said after a breach, which nobody may hear.
const unheard = "said too late"

const answerWait = 15 * time.Second // for the server to answer a misdeed, or end it

// masked returns a frame as a client sends it. Its mask is zero, which is a mask like any other.
func masked(first byte, payload string) string {
	switch {
	case len(payload) < 126:
		return string([]byte{first, 0x80 | byte(len(payload))}) + "\x00\x00\x00\x00" + payload
	case len(payload) < 1<<16:
		return string(binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(len(payload)))) + "\x00\x00\x00\x00" + payload
	}
	return lying(first, uint64(len(payload)), payload)
}

// lying returns a frame that says that it is so long.
func lying(first byte, length uint64, payload string) string {
	return string(binary.BigEndian.AppendUint64([]byte{first, 0x80 | 127}, length)) + "\x00\x00\x00\x00" + payload
}

func closing(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// Frames that break a rule, and the code with which the server hangs up.
var breaches = []struct {
	name     string
	protocol string
	send     string
	code     int
}{
	{"binary", "", masked(fin|binaryData, "hello"), 1003},
	{"binary in fragments", protocol.Subprotocol, masked(binaryData, "he") + masked(fin|continuation, "llo"), 1003},
	{"not UTF-8", "", masked(fin|text, "\xff\xfe"), 1007},
	{"not UTF-8 on chat.v1", protocol.Subprotocol, masked(fin|text, `{"text":"`+"\xff"+`"}`), 1007},
	{"not UTF-8, over fragments", "", masked(text, "caf") + masked(continuation, "\xc3") + masked(fin|continuation, "\x28"), 1007},
	{"too long", "", masked(fin|text, strings.Repeat("x", protocol.MaxText+1)), 1009},
	{"too long in fragments", "", masked(text, strings.Repeat("x", protocol.MaxText)) + masked(fin|continuation, "x"), 1009},
	{"too long on chat.v1", protocol.Subprotocol, masked(fin|text, `{"text":"`+strings.Repeat("x", protocol.MaxText+1)+`"}`), 1009},
	{"a frame too long on chat.v1", protocol.Subprotocol, masked(fin|text, strings.Repeat(" ", 40<<10)), 1009},
	{"too long again and again", "", strings.Repeat(masked(fin|text, strings.Repeat("x", 40_000)), 20), 1009},
	{"a length of a terabyte", "", lying(fin|text, 1<<40, strings.Repeat("x", 2*protocol.MaxText)), 1009},
	{"a fragment of all there is", "", masked(text, "x") + lying(fin|continuation, 1<<63-1, strings.Repeat("x", 2*protocol.MaxText)), 1009},
	{"a length with its first bit set", "", lying(fin|text, 1<<63, strings.Repeat("x", 2*protocol.MaxText)), 1009},
	{"unmasked", "", "\x81\x05hello", 1002},
	{"reserved bit", "", masked(fin|0x40|text, "hello"), 1002},
	{"reserved opcode", "", masked(fin|0x3, "hello"), 1002},
	{"reserved control opcode", protocol.Subprotocol, masked(fin|0xB, ""), 1002},
	{"stray continuation", "", masked(fin|continuation, "hello"), 1002},
	{"text inside a message", "", masked(text, "he") + masked(fin|text, "llo"), 1002},
	{"long ping", "", masked(fin|pingFrame, strings.Repeat("x", 126)), 1002},
	{"fragmented ping", "", masked(pingFrame, "hello") + masked(fin|continuation, ""), 1002},
	{"bad close code", "", masked(fin|closeFrame, closing(999, "")), 1002},
	{"not JSON", protocol.Subprotocol, masked(fin|text, "hello"), 1008},
	{"JSON, but no object", protocol.Subprotocol, masked(fin|text, `["hello"]`), 1008},
	{"a number for a text", protocol.Subprotocol, masked(fin|text, `{"text":1}`), 1008},
	{"too long a ref", protocol.Subprotocol, masked(fin|text, `{"text":"x","ref":"`+strings.Repeat("r", 65)+`"}`), 1008},
}

const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// Requests that do not get in, and their answers.
var requests = []struct {
	name   string
	send   string
	status int
}{
	{"no WebSocket", "GET /ws HTTP/1.1\r\nHost: HOST\r\n\r\n", http.StatusUpgradeRequired},
	{"page of another host", "GET /ws HTTP/1.1\r\nHost: HOST\r\nOrigin: http://elsewhere.example\r\n" + upgrade + "\r\n", http.StatusForbidden},
	{"bad room", "GET /ws?room=a%2Fb HTTP/1.1\r\nHost: HOST\r\n" + upgrade + "\r\n", http.StatusBadRequest},
	{"bad handshake", "GET /ws HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", http.StatusBadRequest},
	{"POST", "POST /ws HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n", http.StatusMethodNotAllowed},
	{"no such page", "GET /nowhere HTTP/1.1\r\nHost: HOST\r\n\r\n", http.StatusNotFound},
	{"endless header", "GET / HTTP/1.1\r\nHost: HOST\r\nX-Long: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
	{"no HTTP", "EHLO localhost\r\n\r\n", http.StatusBadRequest},
}

// rogue is somebody who does not behave.
type rogue struct {
	soak *soak
	rand *rand.Rand
}

// live is one misdeed after another, until the end.
func (g *rogue) live(rooms []*room, end time.Time) {
	for time.Now().Before(end) && g.soak.sleep(time.Duration(g.rand.Int64N(int64(2*time.Second)))) {
		room := rooms[g.rand.IntN(len(rooms))].name
		var name string
		var err error
		conn, process, done, dialErr := g.soak.server.dial(g.soak.ctx, false)
		if dialErr != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(answerWait))
		switch n := g.rand.IntN(len(breaches) + len(requests) + 6); {
		case n < len(breaches):
			b := breaches[n]
			name, err = b.name, breach(conn, g.soak.server.addr, room, b.protocol, b.send, b.code)
		case n < len(breaches)+len(requests):
			r := requests[n-len(breaches)]
			name, err = r.name, request(conn, strings.ReplaceAll(r.send, "HOST", g.soak.server.addr), r.status)
		case n%3 == 0:
			name, err = "slow request", slowRequest(conn, g.rand.IntN(2) == 0)
		case n%3 == 1:
			name, err = "empty fragments", pour(conn, g.soak.server.addr, room, masked(text, ""), strings.Repeat(masked(continuation, ""), 500))
		default:
			name, err = "ping flood", pour(conn, g.soak.server.addr, room, "", strings.Repeat(masked(fin|pingFrame, strings.Repeat("!", 125)), 50))
		}
		done()
		if g.rand.IntN(2) == 0 {
			conn.SetLinger(0)
		}
		conn.Close()
		g.soak.verdict.count("bad: " + name)
		switch {
		case err == nil || process.ended.Load() || g.soak.ctx.Err() != nil:
		case g.soak.crowded() && errors.Is(err, os.ErrDeadlineExceeded):
			g.soak.verdict.count("not let in: no answer")
		default:
			g.soak.verdict.odd("%s: %v", name, err)
		}
	}
}

// enter asks to be let in, and returns what to read from then on.
func enter(conn net.Conn, host, room, subprotocol string) (*bufio.Reader, error) {
	head := "GET /ws?room=" + room + " HTTP/1.1\r\nHost: " + host + "\r\n" + upgrade
	if subprotocol != "" {
		head += "Sec-WebSocket-Protocol: " + subprotocol + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("not let in: %s", answer.Status)
	}
	return reader, nil
}

// breach breaks a rule, says something after it, and looks at how the server hangs up.
func breach(conn net.Conn, host, room, subprotocol, send string, code int) error {
	reader, err := enter(conn, host, room, subprotocol)
	if err != nil {
		return err
	}
	late := unheard
	if subprotocol != "" {
		late = `{"text":"` + unheard + `"}`
	}
	go io.WriteString(conn, send+masked(fin|text, late)) // the server may hang up before it has all
	for {
		first, payload, err := readFrame(reader)
		if err != nil {
			return fmt.Errorf("not told why: %w", err)
		}
		if first != fin|closeFrame {
			continue
		}
		if len(payload) < 3 {
			return fmt.Errorf("closed with %q, want %d and a reason", payload, code)
		}
		if got := int(binary.BigEndian.Uint16(payload)); got != code {
			return fmt.Errorf("closed with %d %q, want %d", got, payload[2:], code)
		}
		return nil
	}
}

// readFrame reads a frame as a server sends it.
func readFrame(reader *bufio.Reader) (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(reader, head[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1])
	if extra := map[byte]int{126: 2, 127: 8}[head[1]]; extra > 0 {
		var long [8]byte
		if _, err := io.ReadFull(reader, long[8-extra:]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(long[:])
	}
	if size > protocol.MaxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", size)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(reader, payload)
	return head[0], payload, err
}

// request sends a request and looks at the answer.
func request(conn net.Conn, send string, status int) error {
	if _, err := io.WriteString(conn, send); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != status {
		return fmt.Errorf("answered %s, want %d", answer.Status, status)
	}
	return nil
}

// slowRequest sends half a handshake, or a header a byte at a time, and waits to be cut off.
func slowRequest(conn net.Conn, half bool) error {
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: ")
	if !half {
		go func() {
			for {
				if _, err := conn.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(300 * time.Millisecond)
			}
		}()
	}
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("a request that never ends was not: %w", err)
	}
	return nil // ended somehow
}

// pour sends more and more for some seconds and reads nothing.
func pour(conn net.Conn, host, room, first, more string) error {
	if _, err := enter(conn, host, room, ""); err != nil {
		return err
	}
	io.WriteString(conn, first)
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		conn.SetWriteDeadline(until)
		if _, err := io.WriteString(conn, more); err != nil {
			return nil // the server takes no more
		}
	}
	return nil
}
