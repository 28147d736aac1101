package e2e

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// line is the network between one person and the server: it passes on what both
// say, until something happens to it.
type line struct {
	t    *testing.T
	to   string // where the server is
	addr string // where the person finds it

	mu       sync.Mutex
	listener net.Listener // nil while the line is cut
	conns    map[net.Conn]bool
	deaf     bool // nothing that the server says over a WebSocket arrives
	upgrades int  // WebSockets opened so far
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l := &line{t: t, to: to, addr: "127.0.0.1:0", conns: make(map[net.Conn]bool)}
	l.mend()
	t.Cleanup(l.cut)
	return l
}

// cut ends all connections, and refuses new ones until mend.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		l.listener.Close()
		l.listener = nil
	}
	for conn := range l.conns {
		conn.Close()
	}
}

// mend makes the line good for new connections. Those from before stay as they are.
func (l *line) mend() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = false
	if l.listener != nil {
		return
	}
	var err error
	// The kernel may have lent the port to someone for a moment.
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if l.listener, err = net.Listen("tcp", l.addr); err == nil {
			l.addr = l.listener.Addr().String()
			go l.accept(l.listener)
			return
		}
	}
	l.t.Fatalf("mending the line: %v", err)
}

// interrupt ends all connections; for new ones the line is as before.
func (l *line) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		conn.Close()
	}
}

// swallowAnswers lets nothing through any more that the server says over a
// WebSocket, on connections that there are and on new ones, but lets them open.
func (l *line) swallowAnswers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = true
}

// opened tells how many WebSockets have been opened so far.
func (l *line) opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.upgrades
}

func (l *line) accept(listener net.Listener) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.to)
		if err != nil {
			near.(*net.TCPConn).SetLinger(0) // refused: the server is not there
			near.Close()
			continue
		}
		go l.connect(listener, near.(*net.TCPConn), far.(*net.TCPConn))
	}
}

// connect passes on what both sides say until both have hung up. Each hears of the
// other's end only after all that it has said.
func (l *line) connect(listener net.Listener, near, far *net.TCPConn) {
	defer l.forget(near, far)
	if !l.remember(listener, near, far) {
		return
	}
	var asked sync.WaitGroup
	asked.Go(func() {
		io.Copy(far, near)
		far.CloseWrite()
	})
	l.answer(near, bufio.NewReader(far))
	near.CloseWrite()
	asked.Wait()
}

// remember has the connection end with the line. It reports false if the line was
// cut meanwhile.
func (l *line) remember(listener net.Listener, near, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[near], l.conns[far] = true, true
	return l.listener == listener
}

func (l *line) forget(near, far net.Conn) {
	near.Close()
	far.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, near)
	delete(l.conns, far)
}

// answer passes on what the server says: whatever it answers to requests, and what
// it says over a WebSocket while the line is not deaf. Once it has lost a byte,
// the rest would be nonsense, so that is lost too.
func (l *line) answer(near net.Conn, far *bufio.Reader) {
	const switching = "HTTP/1.1 101 "
	if begin, err := far.Peek(len(switching)); err != nil || string(begin) != switching {
		io.Copy(near, far)
		return
	}
	for header := ""; header != "\r\n"; {
		var err error
		if header, err = far.ReadString('\n'); err != nil {
			return
		}
		io.WriteString(near, header) // if it fails, the other direction ends both
	}
	l.mu.Lock()
	l.upgrades++
	l.mu.Unlock()
	lost := false
	for buf := make([]byte, 32<<10); ; {
		n, err := far.Read(buf)
		l.mu.Lock()
		lost = lost || l.deaf
		l.mu.Unlock()
		if !lost {
			near.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}
