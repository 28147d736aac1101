// Package connlimit bounds how many connections a server has, of all kinds. When there are
// too many, those that do nothing make place, the one idle longest first.
package connlimit

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// A Listener is a listener that accepts a bounded number of connections at a time. Set its
// ConnState as that of the HTTP server, and call Done for each hijacked connection when
// that has ended.
type Listener struct {
	net.Listener
	max int

	mu     sync.Mutex
	freed  *sync.Cond             // open has become smaller, or closed true
	open   int                    // connections of all kinds
	http   map[net.Conn]time.Time // those that are HTTP: since when they are idle; zero while they are not
	closed bool
}

// New returns a listener for so many connections at a time.
func New(l net.Listener, max int) *Listener {
	limited := &Listener{Listener: l, max: max, http: make(map[net.Conn]time.Time)}
	limited.freed = sync.NewCond(&limited.mu)
	return limited
}

// Accept waits for the next connection, and then for a place for it.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.open >= l.max && !l.closed {
		l.closeIdle()
		l.freed.Wait()
	}
	if l.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	l.open++
	l.http[conn] = time.Now()
	return conn, nil
}

// closeIdle closes the connection that has been idle longest, if one is idle. The lock must
// be held. The HTTP server notices, and tells by ConnState.
func (l *Listener) closeIdle() {
	var longest net.Conn
	for conn, since := range l.http {
		if !since.IsZero() && (longest == nil || since.Before(l.http[longest])) {
			longest = conn
		}
	}
	if longest != nil {
		l.http[longest] = time.Time{} // not twice
		longest.Close()
	}
}

// ConnState notes what the HTTP server says of a connection.
func (l *Listener) ConnState(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateActive:
		l.http[conn] = time.Time{}
	case http.StateIdle:
		l.http[conn] = time.Now()
		l.freed.Broadcast() // it may make place
	case http.StateHijacked:
		delete(l.http, conn)
	case http.StateClosed:
		delete(l.http, conn)
		l.free()
	}
}

// Done notes that a hijacked connection has ended.
func (l *Listener) Done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free()
}

// free notes that there is one connection less. The lock must be held.
func (l *Listener) free() {
	l.open--
	l.freed.Broadcast()
}

// HTTP returns how many connections there are that were not hijacked.
func (l *Listener) HTTP() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.http)
}

// Close closes the listener. Connections stay open.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	l.freed.Broadcast()
	l.mu.Unlock()
	return l.Listener.Close()
}
