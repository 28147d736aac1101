package connlimit

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/wstest"
)

// serve runs an HTTP server with so many places until the test ends. It answers after the
// time that the query gives, and hijacks at /hijack.
func serve(t *testing.T, places int) (*Listener, *wstest.Network) {
	network := wstest.NewNetwork()
	l := New(network, places)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.Query().Get("after"))
		time.Sleep(d)
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 OK\r\n\r\n")
		go func() {
			defer l.Done()
			defer conn.Close()
			io.Copy(io.Discard, conn)
		}()
	})
	server := &http.Server{Handler: mux, ConnState: l.ConnState}
	go server.Serve(l)
	t.Cleanup(func() {
		server.Close()
		time.Sleep(time.Minute) // for requests that are being answered
	})
	return l, network
}

// ask opens a connection and sends a request for a path. It reports whether an answer
// comes within a second.
func ask(t *testing.T, network *wstest.Network, path string) (net.Conn, bool) {
	t.Helper()
	conn, err := network.Dial(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if path == "" {
		synctest.Wait()
		return conn, true
	}
	io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	return conn, err == nil
}

// isOpen reports whether the server has not closed a connection.
func isOpen(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// A newcomer takes the place of the connection that has been idle longest, whether that
// sent a request or nothing yet.
func TestIdleMakesPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, network := serve(t, 3)
		var conns []net.Conn
		for _, path := range []string{"/", "", "/"} {
			conn, ok := ask(t, network, path)
			if !ok {
				t.Fatal("no answer while there is place")
			}
			conns = append(conns, conn)
			time.Sleep(time.Second)
		}
		for i, want := range [][3]bool{{false, true, true}, {false, false, true}, {false, false, false}} {
			if _, ok := ask(t, network, "/"); !ok {
				t.Errorf("newcomer %d gets no answer", i)
			}
			time.Sleep(time.Second)
			for j, conn := range conns {
				if isOpen(conn) != want[j] {
					t.Errorf("after newcomer %d, connection %d is open: %v", i, j, !want[j])
				}
			}
		}
		if n := l.HTTP(); n != 3 {
			t.Errorf("%d connections", n)
		}
	})
}

// While all connections are busy or hijacked, a newcomer waits; it comes in when one ends.
func TestBusyStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, network := serve(t, 2)
		hijacked, ok := ask(t, network, "/hijack")
		if !ok {
			t.Fatal("no answer")
		}
		ask(t, network, "/?after=10s")
		late, ok := ask(t, network, "/")
		if ok {
			t.Error("came in though there is no place")
		}
		if n := l.HTTP(); n != 1 {
			t.Errorf("%d connections are HTTP", n)
		}
		hijacked.Close()
		late.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := http.ReadResponse(bufio.NewReader(late), nil); err != nil {
			t.Errorf("did not come in: %v", err)
		}
	})
}

// Close ends an Accept that waits for a place.
func TestCloseWhileFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, network := serve(t, 1)
		ask(t, network, "/hijack")
		waiting, _ := ask(t, network, "")
		l.Close()
		synctest.Wait()
		if isOpen(waiting) {
			t.Error("a connection that waited is open")
		}
	})
}
