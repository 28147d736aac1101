package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// The words in which the other tests are written: a whole chat on fake time and an
// in-memory network, people who join it, and raw connections that misbehave.

func TestMain(m *testing.M) {
	if os.Getenv("CHAT_TEST_RUN_MAIN") != "" { // the tests of the process start themselves as the chat
		main()
		return
	}
	log.SetOutput(io.Discard)
	status := m.Run()
	if leak := leaked(); leak != "" && status == 0 {
		fmt.Println("FAIL: goroutines left behind:\n" + leak)
		status = 1
	}
	os.Exit(status)
}

// leaked returns the stacks of this program's goroutines, TestMain's own aside,
// that have not ended two seconds after the last test, "" if there are none. (Fuzz workers are not asked.)
func leaked() string {
	own := regexp.MustCompile(`(?m)^chat\.`)
	for deadline := time.Now().Add(2 * time.Second); ; runtime.Gosched() {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, stack := range strings.Split(string(buf), "\n\n") {
			if own.MatchString(stack) && !strings.Contains(stack, "chat.TestMain") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// chat is a server at work on an in-memory network. It must run in a bubble.
type chat struct {
	*server
	t       *testing.T
	network *network
	stop    func() // as a signal would
	stopped chan error
}

// startChat starts a server as main would with no flags but those that the options
// set, and stops it when the test ends.
func startChat(t *testing.T, options ...func(*server)) *chat {
	t.Helper()
	s := newServer(nil, 10, 10_000)
	for _, set := range options {
		set(s)
	}
	ctx, stop := context.WithCancel(t.Context())
	c := &chat{server: s, t: t, network: newNetwork(), stop: stop, stopped: make(chan error, 1)}
	go func() { c.stopped <- s.serve(ctx, c.network, nil) }()
	t.Cleanup(func() {
		stop()
		c.wantStopped()
		time.Sleep(time.Second) // for what the test itself has started
	})
	return c
}

func unlimited(s *server) { s.rate = 0 }

// wantStopped waits for serve to return, which it must do within five seconds.
func (c *chat) wantStopped() {
	c.t.Helper()
	begin := time.Now()
	err := <-c.stopped
	if took := time.Since(begin); took > 5*time.Second {
		c.t.Errorf("stopping took %v", took)
	}
	if err != nil {
		c.t.Errorf("serve: %v", err)
	}
	if n := c.network.open(); n != 0 {
		c.t.Errorf("%d connections are left", n)
	}
	c.stopped <- nil // for the next who asks
}

// person is a well-behaved client: it reads all the time.
type person struct {
	t    *testing.T
	conn *websocket.Conn

	mu    sync.Mutex
	heard []string
	err   error // why it hears no more
}

// join lets someone into the room, with a name or (name "") without.
func (c *chat) join(name string) *person {
	c.t.Helper()
	return c.joinAs(name, nil)
}

// joinAs is join with header lines of one's own.
func (c *chat) joinAs(name string, header http.Header) *person {
	c.t.Helper()
	dialer := websocket.Dialer{NetDialContext: c.network.dial}
	conn, resp, err := dialer.Dial("ws://chat.test/ws?name="+name, header)
	if err != nil {
		c.t.Fatalf("join: %v (%v)", err, resp)
	}
	p := &person{t: c.t, conn: conn}
	go p.listen()
	c.t.Cleanup(func() { conn.Close() })
	synctest.Wait() // it is registered
	return p
}

func (p *person) listen() {
	for {
		_, text, err := p.conn.ReadMessage()
		p.mu.Lock()
		if err != nil {
			p.err = err
			p.mu.Unlock()
			p.conn.Close()
			return
		}
		if len(text) > maxFrame {
			p.t.Errorf("a frame of %d bytes", len(text))
		}
		p.heard = append(p.heard, strings.Split(string(text), "\n")...)
		p.mu.Unlock()
	}
}

func (p *person) say(text string) {
	p.t.Helper()
	if err := p.conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		p.t.Errorf("say: %v", err)
	}
}

// markWritten returns what was heard since it was last asked for.
func (p *person) take() []string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	heard := p.heard
	p.heard = nil
	return heard
}

// want fails the test unless exactly these lines were heard since the last want.
func (p *person) want(lines ...string) {
	p.t.Helper()
	if heard := p.take(); !slices.Equal(heard, lines) {
		p.t.Errorf("heard %.200q\nwant  %.200q", heard, lines)
	}
}

// wantHere fails the test if the person is no longer connected.
func (p *person) wantHere() {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		p.t.Errorf("is gone: %v", p.err)
	}
}

// wantClosed fails the test unless the server has said goodbye like this.
func (p *person) wantClosed(code int, reason string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var closed *websocket.CloseError
	if !errors.As(p.err, &closed) || closed.Code != code || closed.Text != reason {
		p.t.Errorf("ended with %v, want %d %q", p.err, code, reason)
	}
}

func (p *person) leave() {
	p.t.Helper()
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := p.conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)); err != nil {
		p.t.Errorf("leave: %v", err)
	}
}

// wantClients fails the test unless there are n connections.
func (c *chat) wantClients(n int) {
	c.t.Helper()
	synctest.Wait()
	if got := len(c.slots); got != n {
		c.t.Errorf("%d connections, want %d", got, n)
	}
}

// raw is a connection that sends whatever bytes it likes.
type raw struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// connect opens a connection without saying anything on it.
func (c *chat) connect() *raw {
	c.t.Helper()
	conn, err := c.network.dial(c.t.Context(), "", "")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return &raw{c.t, conn, bufio.NewReader(conn)}
}

const handshake = "GET /ws HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

func handshakeFor(path, subprotocol string) string {
	request := strings.Replace(handshake, "/ws", path, 1)
	return strings.Replace(request, "\r\n\r\n", "\r\nSec-WebSocket-Protocol: "+subprotocol+"\r\n\r\n", 1)
}

// upgrade opens a connection and completes the handshake.
func (c *chat) upgrade() *raw {
	c.t.Helper()
	return c.upgradeTo("/ws", "")
}

// upgradeTo is upgrade with a path and query and a subprotocol of one's own.
func (c *chat) upgradeTo(path, subprotocol string) *raw {
	c.t.Helper()
	conn := c.connect()
	conn.send(handshakeFor(path, subprotocol))
	resp, err := http.ReadResponse(conn.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		c.t.Fatalf("handshake: %v %v", resp, err)
	}
	synctest.Wait()
	return conn
}

// ask sends a request on a connection of its own and returns the answer, its body read.
func (c *chat) ask(request string) (*http.Response, string) {
	c.t.Helper()
	conn := c.connect()
	conn.send(request)
	resp, err := http.ReadResponse(conn.r, nil)
	if err != nil {
		c.t.Fatalf("%.40q: %v", request, err)
	}
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

func (r *raw) send(bytes string) {
	r.t.Helper()
	r.SetWriteDeadline(time.Now().Add(time.Minute))
	defer r.SetWriteDeadline(time.Time{})
	if _, err := io.WriteString(r.Conn, bytes); err != nil {
		r.t.Fatalf("send: %v", err)
	}
}

// The first bytes of frames (RFC 6455, section 5.2).
const (
	fin = 0x80

	continuation = 0x0
	text         = 0x1
	binaryData   = 0x2
	closeFrame   = 0x8
	pingFrame    = 0x9
	pongFrame    = 0xA
)

// masked returns a frame as a client sends it. The mask is zero, which is as good as
// any but leaves the payload readable.
func masked(first byte, payload string) string {
	return lying(first, uint64(len(payload)), payload)
}

// lying is masked with a header that tells another length.
func lying(first byte, length uint64, payload string) string {
	b := []byte{first}
	switch {
	case length < 126:
		b = append(b, 0x80|byte(length))
	case length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), length)
	}
	return string(b) + "\x00\x00\x00\x00" + payload
}

// next returns the next frame's first byte and payload, or what reading failed with.
func (r *raw) next() (first byte, payload string, err error) {
	r.SetReadDeadline(time.Now().Add(10 * time.Minute))
	var head [2]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, "", err
	}
	length := int(head[1])
	if length == 126 {
		var more [2]byte
		if _, err := io.ReadFull(r.r, more[:]); err != nil {
			return 0, "", err
		}
		length = int(binary.BigEndian.Uint16(more[:]))
	}
	if length > maxFrame {
		return 0, "", fmt.Errorf("a frame of %d bytes or masked", length)
	}
	buf := make([]byte, length)
	_, err = io.ReadFull(r.r, buf)
	return head[0], string(buf), err
}

// wantClosed reads up to the close frame, which must have this code and a reason,
// and to the end of the line, which must be there already and not be a reset. It
// returns how many frames came before.
func (r *raw) wantClosed(code int) (frames int) {
	r.t.Helper()
	defer r.Close()
	for ; ; frames++ {
		first, payload, err := r.next()
		if err != nil {
			r.t.Errorf("ended with %v, want close %d", err, code)
			return frames
		}
		if first != fin|closeFrame {
			continue
		}
		if len(payload) < 4 || int(binary.BigEndian.Uint16([]byte(payload))) != code {
			r.t.Errorf("closed with %q, want %d", payload, code)
		}
		break
	}
	r.SetReadDeadline(time.Now().Add(lingerWait / 2))
	if n, err := r.r.Read(make([]byte, 1)); err != io.EOF {
		r.t.Errorf("after the close frame: %d bytes, %v", n, err)
	}
	return frames
}

// wantGone reads until the line ends, which must be within limit of fake time.
func (r *raw) wantGone(limit time.Duration) {
	r.t.Helper()
	r.SetReadDeadline(time.Now().Add(limit))
	if _, err := io.Copy(io.Discard, r.r); errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Errorf("still there after %v", limit)
	}
}

// slowReader is a client that takes only so many bytes a second.
type slowReader struct {
	mu    sync.Mutex
	bytes []byte
}

// readSlowly reads from now on, all the time.
func (conn *raw) readSlowly(bytesPerSecond int) *slowReader {
	r := new(slowReader)
	go func() {
		buf := make([]byte, bytesPerSecond/100)
		for {
			n, err := conn.r.Read(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.bytes = append(r.bytes, buf[:n]...)
			r.mu.Unlock()
			time.Sleep(time.Duration(n) * time.Second / time.Duration(bytesPerSecond))
			if bytes.IndexByte(buf[:n], fin|pingFrame) >= 0 { // never part of the text said here
				if _, err := io.WriteString(conn.Conn, masked(fin|pongFrame, "")); err != nil {
					return
				}
			}
		}
	}()
	return r
}

// heard tells how often the reader has heard a text.
func (r *slowReader) heard(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Count(r.bytes, []byte(text))
}

// logged collects the log from now on until the test ends.
func logged(t *testing.T) func() string {
	var mu sync.Mutex
	var buf bytes.Buffer
	log.SetOutput(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return buf.Write(p)
	}))
	t.Cleanup(func() { log.SetOutput(io.Discard) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return buf.String()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// wantLogged fails the test unless the log has part n times.
func wantLogged(t *testing.T, log func() string, n int, part string) {
	t.Helper()
	synctest.Wait()
	if got := strings.Count(log(), part); got != n {
		t.Errorf("%q is %d times in the log, want %d:\n%s", part, got, n, log())
	}
}

// bubble runs a test on fake time: it goes on when everyone waits for it to.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// freeze lets the person's line die without a word: nothing passes either way.
func (p *person) freeze() {
	c := p.conn.NetConn().(*conn)
	for _, s := range []*stream{c.in, c.out} {
		s.update(func() { s.frozen = true })
	}
}
