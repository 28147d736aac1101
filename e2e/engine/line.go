package engine

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// A Line is a TCP proxy, and so a network that fails on demand.
type Line struct {
	Addr string // where it listens
	to   string

	mu       sync.Mutex
	mended   *sync.Cond   // no longer frozen
	listener net.Listener // nil while it is cut
	conns    map[net.Conn]bool
	there    bool // holds back what is sent to the other end
	back     bool // holds back what comes from there
}

// NewLine returns a line to an address. The caller closes it.
func NewLine(to string) (*Line, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	l := &Line{Addr: addr, to: to, conns: make(map[net.Conn]bool)}
	l.mended = sync.NewCond(&l.mu)
	return l, l.Mend()
}

// Cut ends all connections and refuses new ones, until Mend.
func (l *Line) Cut() {
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

// Freeze holds back what is sent, both ways, until Mend: connections stay open, and new ones
// are accepted.
func (l *Line) Freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.there, l.back = true, true
}

// HoldAnswers holds back what comes from the other end, until Mend.
func (l *Line) HoldAnswers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.back = true
}

// Mend undoes Cut, Freeze and HoldAnswers. What was held back arrives, if its connection is
// there.
func (l *Line) Mend() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.thaw()
	if l.listener != nil {
		return nil
	}
	listener, err := net.Listen("tcp4", l.Addr)
	for deadline := time.Now().Add(startTimeout); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // a process that is just being started has a copy of the last listener
		listener, err = net.Listen("tcp4", l.Addr)
	}
	if err != nil {
		return err
	}
	l.listener = listener
	go l.accept(listener)
	return nil
}

// Close ends all connections and the line.
func (l *Line) Close() {
	l.Cut()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.thaw() // for its goroutines to end
}

// thaw holds back nothing any more. The lock must be held.
func (l *Line) thaw() {
	l.there, l.back = false, false
	l.mended.Broadcast()
}

func (l *Line) accept(listener net.Listener) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		go l.connect(listener, near)
	}
}

// connect passes on what both sides send until one of them ends.
func (l *Line) connect(listener net.Listener, near net.Conn) {
	defer near.Close()
	l.pass(&l.there)
	far, err := net.DialTimeout("tcp4", l.to, 5*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	current := l.listener == listener
	l.conns[near], l.conns[far] = true, true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, near)
		delete(l.conns, far)
	}()
	if !current { // cut meanwhile
		return
	}
	go l.copy(near, far, &l.back)
	l.copy(far, near, &l.there)
}

// copy copies from one connection to the other, while not held, until one ends. Then it ends
// the other, too.
func (l *Line) copy(to, from net.Conn, held *bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.pass(held)
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// pass returns when a direction is not held.
func (l *Line) pass(held *bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for *held {
		l.mended.Wait()
	}
}
