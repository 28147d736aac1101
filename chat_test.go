package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/natstest"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// The vocabulary of the other tests: a whole chat on fake time and an in-memory network,
// clients that join it, and raw connections that send what they like.

func TestMain(m *testing.M) {
	if dir := os.Getenv("CHAT_TEST_HISTORY"); dir != "" {
		point, _ := strconv.Atoi(os.Getenv("CHAT_TEST_KILL_AT"))
		mortalChat(dir, point)
	}
	if os.Getenv("CHAT_TEST_RUN_MAIN") != "" { // tests of the process start this program as the chat
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

// leaked returns the stacks of this program's goroutines, TestMain's own aside, that have
// not ended two seconds after the last test; "" if there are none.
func leaked() string {
	module := "chat" // of a fuzz worker, which has no build information
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path != "" {
		module = info.Main.Path
	}
	own := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(module) + `[./]`)
	for deadline := time.Now().Add(2 * time.Second); ; runtime.Gosched() {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for stack := range strings.SplitSeq(string(buf), "\n\n") {
			if own.MatchString(stack) && !strings.Contains(stack, module+".TestMain") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// onFakeTime runs a subtest in a bubble of fake time.
func onFakeTime(t *testing.T, name string, test func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// chat is a server at work on an in-memory network, in a synctest bubble.
type chat struct {
	*server
	t       *testing.T
	network *wstest.Network
	nats    *natstest.NATS // if a test sets it
	stop    func()         // as a signal would
	stopped chan error
}

// startChat starts a server as main would with no flags but those that the options set,
// and stops it when the test ends.
func startChat(t *testing.T, options ...func(*server)) *chat {
	t.Helper()
	s := newServer(nil, 10, 10_000)
	for _, set := range options {
		set(s)
	}
	ctx, stop := context.WithCancel(t.Context())
	c := &chat{server: s, t: t, network: wstest.NewNetwork(), stop: stop, stopped: make(chan error, 1)}
	go func() { c.stopped <- s.serve(ctx, c.network, nil) }()
	synctest.Wait() // it listens
	t.Cleanup(func() {
		stop()
		c.wantStopped()
		time.Sleep(time.Second) // for what the test itself has started
	})
	return c
}

// unlimited is an option: nobody is throttled.
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
	if n := c.network.Open(); n != 0 {
		c.t.Errorf("%d connections are left", n)
	}
	if bytes := c.rooms.backlog.Bytes(); bytes != 0 {
		c.t.Errorf("%d bytes of batches are left", bytes)
	}
	c.stopped <- nil // for the next caller
}

// wantClients fails the test unless there are n connections.
func (c *chat) wantClients(n int) {
	c.t.Helper()
	synctest.Wait()
	if got := len(c.slots); got != n {
		c.t.Errorf("%d connections, want %d", got, n)
	}
}

// wantRooms fails the test unless there are n rooms.
func (c *chat) wantRooms(n int) {
	c.t.Helper()
	synctest.Wait()
	if got := c.rooms.count(); got != n {
		c.t.Errorf("%d rooms, want %d", got, n)
	}
}

// person is a well-behaved client of either protocol: it reads all the time.
type person struct {
	t        *testing.T
	conn     *websocket.Conn
	protocol protocol.Protocol

	mu     sync.Mutex
	events []wstest.Event // not yet taken
	err    error          // why there will be no more
}

// join connects a client of the classic protocol; query is that of /ws.
func (c *chat) join(query string) *person { return c.mustConnect(query, protocol.Classic) }

// joinV1 connects a client of chat.v1; query is that of /ws.
func (c *chat) joinV1(query string) *person { return c.mustConnect(query, protocol.ChatV1) }

func (c *chat) mustConnect(query string, proto protocol.Protocol) *person {
	c.t.Helper()
	p, err := c.connect(query, proto)
	if err != nil {
		c.t.Fatalf("join: %v", err)
	}
	c.t.Cleanup(func() { p.conn.Close() })
	synctest.Wait() // it is registered
	return p
}

func (c *chat) connect(query string, proto protocol.Protocol) (*person, error) {
	dialer := websocket.Dialer{NetDialContext: c.network.Dial}
	want := ""
	if proto == protocol.ChatV1 {
		want = protocol.Subprotocol
		dialer.Subprotocols = []string{want}
	}
	conn, _, err := dialer.Dial("ws://chat.test/ws?"+query, nil)
	if err != nil {
		return nil, err
	}
	if conn.Subprotocol() != want {
		c.t.Errorf("the server answers with subprotocol %q", conn.Subprotocol())
	}
	p := &person{t: c.t, conn: conn, protocol: proto}
	go p.read()
	return p, nil
}

func (p *person) read() {
	for {
		_, frame, err := p.conn.ReadMessage()
		p.mu.Lock()
		if err != nil {
			p.err = err
			p.mu.Unlock()
			p.conn.Close()
			return
		}
		events, err := wstest.Events(p.protocol, frame)
		if err != nil {
			p.t.Error(err)
		}
		p.events = append(p.events, events...)
		p.mu.Unlock()
	}
}

// say sends a text, in chat.v1 with a ref if one is given.
func (p *person) say(text string, ref ...string) {
	p.t.Helper()
	if p.protocol == protocol.ChatV1 {
		frame, _ := json.Marshal(map[string]string{"text": text, "ref": strings.Join(ref, "")})
		text = string(frame)
	}
	p.send(text)
}

// send sends a text frame as it is.
func (p *person) send(frame string) {
	p.t.Helper()
	if err := p.conn.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		p.t.Errorf("send: %v", err)
	}
}

// take returns the events of a type, "" for all, that were received and not yet taken.
func (p *person) take(kind string) []wstest.Event {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var taken, left []wstest.Event
	for _, e := range p.events {
		if kind == "" || e.Type == kind {
			taken = append(taken, e)
		} else {
			left = append(left, e)
		}
	}
	p.events = left
	return taken
}

// texts returns the texts of the messages that were received and not yet taken.
func (p *person) texts() []string {
	var texts []string
	for _, e := range p.take("message") {
		texts = append(texts, e.Text)
	}
	return texts
}

// hello returns the greeting of chat.v1.
func (p *person) hello() wstest.Event {
	p.t.Helper()
	hellos := p.take("hello")
	if len(hellos) != 1 {
		p.t.Fatalf("%d hellos", len(hellos))
	}
	return hellos[0]
}

// want fails the test unless exactly these texts were received since the last want.
func (p *person) want(texts ...string) {
	p.t.Helper()
	if got := p.texts(); !slices.Equal(got, texts) {
		p.t.Errorf("received %.200q\nwant     %.200q", got, texts)
	}
}

// wantHere fails the test if the client is no longer connected.
func (p *person) wantHere() {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		p.t.Errorf("disconnected: %v", p.err)
	}
}

// wantClosed fails the test unless the server has closed the connection with this code
// and reason.
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

// leave starts the close handshake.
func (p *person) leave() {
	p.t.Helper()
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := p.conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)); err != nil {
		p.t.Errorf("leave: %v", err)
	}
}

// freeze cuts the connection off: neither end is told.
func (p *person) freeze() { p.conn.NetConn().(*wstest.Conn).Freeze() }

// raw is a connection on which a test sends and reads bytes as it likes.
type raw struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// dial opens a connection and sends nothing.
func (c *chat) dial() *raw {
	c.t.Helper()
	conn, err := c.network.Dial(c.t.Context(), "", "")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return &raw{c.t, conn, bufio.NewReader(conn)}
}

// handshake is a request that upgrades a connection to the classic protocol.
var handshake = wstest.Handshake("chat.test", "/ws", "")

// plainGet asks for the chat without an upgrade.
var plainGet = wstest.PlainGet("chat.test", "/ws")

// upgrade opens a connection of the classic protocol.
func (c *chat) upgrade() *raw {
	c.t.Helper()
	return c.upgradeTo("", protocol.Classic)
}

// upgradeTo opens a connection of either protocol; query is that of /ws.
func (c *chat) upgradeTo(query string, proto protocol.Protocol) *raw {
	c.t.Helper()
	subprotocol := ""
	if proto == protocol.ChatV1 {
		subprotocol = protocol.Subprotocol
	}
	conn := c.dial()
	conn.send(wstest.Handshake("chat.test", "/ws?"+query, subprotocol))
	resp, err := http.ReadResponse(conn.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		c.t.Fatalf("handshake: %v %v", resp, err)
	}
	synctest.Wait()
	return conn
}

// ask sends a request on a connection of its own and returns the answer and its body.
func (c *chat) ask(request string) (*http.Response, string) {
	c.t.Helper()
	conn := c.dial()
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

// sendFrame sends a message or a control frame in one frame.
func (r *raw) sendFrame(opcode byte, payload string) {
	r.t.Helper()
	r.send(wstest.Masked(wstest.Fin|opcode, payload))
}

// next returns the next frame's first byte and payload, or the error of reading it.
func (r *raw) next() (first byte, payload string, err error) {
	r.SetReadDeadline(time.Now().Add(10 * time.Minute))
	return wstest.ReadFrame(r.r)
}

// wantClosed reads up to the close frame, which must have this code and a reason, and to
// the end of the connection, which must be there already and not be a reset. It returns
// how many frames came before.
func (r *raw) wantClosed(code int) (frames int) {
	r.t.Helper()
	defer r.Close()
	for ; ; frames++ {
		first, payload, err := r.next()
		if err != nil {
			r.t.Errorf("ended with %v, want close %d", err, code)
			return frames
		}
		if first != wstest.Fin|wstest.Close {
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

// wantGone reads until the connection ends, which must be within limit of fake time.
func (r *raw) wantGone(limit time.Duration) {
	r.t.Helper()
	r.SetReadDeadline(time.Now().Add(limit))
	if _, err := io.Copy(io.Discard, r.r); errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Errorf("still there after %v", limit)
	}
}

// slowReader is a client that reads only so many bytes a second.
type slowReader struct {
	mu    sync.Mutex
	bytes []byte
}

// readSlowly reads from now on, and answers pings.
func (r *raw) readSlowly(bytesPerSecond int) *slowReader {
	slow := new(slowReader)
	go func() {
		buf := make([]byte, bytesPerSecond/100)
		for {
			n, err := r.r.Read(buf)
			if err != nil {
				return
			}
			slow.mu.Lock()
			slow.bytes = append(slow.bytes, buf[:n]...)
			slow.mu.Unlock()
			time.Sleep(time.Duration(n) * time.Second / time.Duration(bytesPerSecond))
			if bytes.IndexByte(buf[:n], wstest.Fin|wstest.Ping) >= 0 { // never part of the text said here
				if _, err := io.WriteString(r.Conn, wstest.Masked(wstest.Fin|wstest.Pong, "")); err != nil {
					return
				}
			}
		}
	}()
	return slow
}

// count returns how often the reader has received a text.
func (r *slowReader) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Count(r.bytes, []byte(text))
}

// memoryOf returns by how many bytes the heap and the stacks have grown after do, and how
// many bytes do allocated on the heap.
func memoryOf(do func()) (kept, allocated int) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	allocated = int(after.TotalAlloc - before.TotalAlloc)
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int(after.HeapAlloc+after.StackInuse) - int(before.HeapAlloc+before.StackInuse), allocated
}

// captureLog collects the log from now on until the test ends.
func captureLog(t *testing.T) func() string {
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
