package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/protocol"
	"chat/internal/wstest"
)

// What the server answers to requests, and which it refuses.

// The page is served as it is in the source tree; package page has the tests of how.
func TestPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		resp, body := chat.ask(wstest.PlainGet("chat.test", "/"))
		if resp.StatusCode != 200 || body != strings.ReplaceAll(home, "\r\n", "\n") || resp.Header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s %v, %d bytes", resp.Status, resp.Header, len(body))
		}
		zipped, compressed := chat.ask(wstest.PlainGet("chat.test", "/", "Accept-Encoding: gzip"))
		if zipped.Header.Get("Content-Encoding") != "gzip" || len(compressed) != int(zipped.ContentLength) || len(compressed) > len(body)/2 {
			t.Errorf("%s %v, %d bytes for %d", zipped.Status, zipped.Header, len(compressed), len(body))
		}
		resp, body = chat.ask(wstest.PlainGet("chat.test", "/", "If-None-Match: "+resp.Header.Get("ETag")))
		if resp.StatusCode != http.StatusNotModified || body != "" {
			t.Errorf("asked again with the ETag: %s, %d bytes", resp.Status, len(body))
		}
	})
}

// Requests that are refused, or answered otherwise than with a connection, leave no
// connection and take no slot.
func TestRequests(t *testing.T) {
	for _, request := range wstest.Requests("chat.test") {
		onFakeTime(t, request.What, func(t *testing.T) {
			chat := startChat(t)
			resp, body := chat.ask(request.Send)
			name, value, _ := strings.Cut(request.Header, ": ")
			if resp.StatusCode != request.Status || resp.Header.Get(name) != value || body == "" && !strings.HasPrefix(request.Send, "HEAD") {
				t.Errorf("%s %v %q", resp.Status, resp.Header, body)
			}
			time.Sleep(time.Minute)
			chat.wantClients(0)
			if n := chat.network.Open(); n != 0 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}

// When all slots are taken, clients are refused, the others do not notice, and a slot that
// is given back serves one client.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, func(s *server) { s.slots = make(chan struct{}, 2) })
		log := captureLog(t)
		ada, bob := chat.join(""), chat.join("")
		for _, request := range []string{handshake, plainGet} {
			resp, body := chat.ask(request)
			if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "full") {
				t.Errorf("%s %v %q", resp.Status, resp.Header, body)
			}
		}
		wantLogged(t, log, 1, "192.0.2.2:1234 refused: The chat is full.")
		ada.say("crowded")
		bob.want("crowded")
		bob.leave()
		synctest.Wait()
		chat.join("").say("room for me")
		ada.want("crowded", "room for me")
	})
}

// A peer that sends its request too slowly, keeps a connection without another request,
// or does not read the answer is disconnected, but not at once.
func TestSlowRequests(t *testing.T) {
	page := wstest.PlainGet("chat.test", "/")
	for _, slow := range []struct {
		what, send string
		window     int // of the connection
		limit      time.Duration
	}{
		{"nothing", "", 256 << 10, 5 * time.Second},
		{"half a request", "GET / HTTP/1.1\r\nHost: ch", 256 << 10, 5 * time.Second},
		{"a request, then nothing", page, 256 << 10, 5 * time.Second},
		{"half a body", wstest.PlainGet("chat.test", "/x", "Content-Length: 10") + "half", 256 << 10, 6 * time.Second},
		{"a request whose answer is not read", page, 1 << 10, 10 * time.Second},
	} {
		onFakeTime(t, slow.what, func(t *testing.T) {
			chat := startChat(t)
			chat.network.Window = slow.window
			conn := chat.dial()
			conn.send(slow.send)
			time.Sleep(slow.limit - 2*time.Second)
			if synctest.Wait(); chat.network.Open() != 1 {
				t.Errorf("disconnected before %v", slow.limit)
			}
			time.Sleep(3 * time.Second)
			if synctest.Wait(); chat.network.Open() != 0 {
				t.Errorf("connected after %v", slow.limit)
			}
			conn.wantGone(time.Second)
		})
	}
}

// A refusal says why, to the peer and, where someone may have set a flag wrong, in the log.
func TestRefusalsSayWhy(t *testing.T) {
	for _, refusal := range []struct{ request, body, log string }{
		{wstest.WithHeader(handshake, "Origin: http://evil.test"), `A page of "http://evil.test" may not join`, `"http://evil.test"; to let it in, add its host to -origin`},
		{wstest.Handshake("chat.test", "/ws?room=a%2Fb", ""), "up to 32 letters, digits", ""},
		{plainGet, "The page is one level up.", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := captureLog(t)
			chat := startChat(t)
			if _, body := chat.ask(refusal.request); !strings.Contains(body, refusal.body) {
				t.Errorf("the answer is %q, want %q", body, refusal.body)
			}
			synctest.Wait()
			if got := log(); (got != "") != (refusal.log != "") || !strings.Contains(got, refusal.log) {
				t.Errorf("the log is %q, want %q", got, refusal.log)
			}
		})
	}
}

// Of many clients that are disconnected for one reason, the log names the first, and then
// says how many more there were.
func TestTheLogIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		for range 50 {
			chat.upgrade().sendFrame(wstest.Binary, "")
			time.Sleep(49 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		wantLogged(t, log, 1, "192.0.2.2:1234 disconnected: only text is said here\n")
		wantLogged(t, log, 2, "disconnected: 20 more\n")
		wantLogged(t, log, 1, "disconnected: 9 more\n")
		wantLogged(t, log, 4, "\n")
	})
}

// The metrics have a listener of their own, which serves nothing else.
func TestMetricsAreOnTheirOwnListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		public, private := wstest.NewNetwork(), wstest.NewNetwork()
		stopped := make(chan error)
		s := newServer(nil, 0, 10)
		go func() { stopped <- s.serve(ctx, public, private) }()
		for _, request := range []struct {
			network *wstest.Network
			path    string
			status  int
		}{
			{public, "/metrics", 404},
			{public, "/healthz", 200},
			{private, "/metrics", 200},
			{private, "/ws", 404},
			{private, "/", 404},
		} {
			asked := &chat{t: t, network: request.network}
			if resp, _ := asked.ask(wstest.PlainGet("chat.test", request.path)); resp.StatusCode != request.status {
				t.Errorf("%s: %s, want %d", request.path, resp.Status, request.status)
			}
		}
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if public.Open()+private.Open() != 0 {
			t.Error("connections are left")
		}
	})
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		resp, body := chat.ask(wstest.PlainGet("chat.test", "/healthz"))
		if resp.StatusCode != http.StatusOK || body != "ok" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q", resp.Status, body)
		}
	})
}

// Only a page at localhost, which came by way of no proxy, is told where other machines open
// its room, and only if they can.
func TestURLForOthers(t *testing.T) {
	const others = "http://10.0.0.7:8080/"
	for _, request := range []struct {
		what, listen, peer, host, header string
		room, want                       string
	}{
		{"localhost", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "", "", others},
		{"from its page", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "Origin: http://localhost:8080", "", others},
		{"by IPv6", "10.0.0.7", "[::1]:5", "localhost:8080", "", "", others},
		{"by IPv4 in IPv6", "10.0.0.7", "[::ffff:127.0.0.1]:5", "LocalHost", "", "", others},
		{"a room", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "", "team", others + "?room=team"},
		{"a room in another script", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "", "教室", others + "?room=%E6%95%99%E5%AE%A4"},
		{"IPv6 alone", "2001:db8::7", "[::1]:5", "localhost:8080", "", "", "http://[2001:db8::7]:8080/"},

		{"a listener for this machine alone", "127.0.0.1", "127.0.0.1:5", "localhost:8080", "", "", ""},
		{"another listener for this machine alone", "::1", "[::1]:5", "localhost:8080", "", "", ""},
		{"another machine", "10.0.0.7", "10.0.0.8:5", "localhost:8080", "", "", ""},
		{"no address", "10.0.0.7", "pipe", "localhost:8080", "", "", ""},
		{"another host", "10.0.0.7", "127.0.0.1:5", "chat.test", "", "", ""},
		{"an address", "10.0.0.7", "127.0.0.1:5", "127.0.0.1:8080", "", "", ""},
		{"a host that begins so", "10.0.0.7", "127.0.0.1:5", "localhost.evil.test:8080", "", "", ""},
		{"a host with a user", "10.0.0.7", "127.0.0.1:5", "localhost@evil.test", "", "", ""},
		{"a page of another host", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "Origin: https://chat.example", "", ""},
		{"a page of another port", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "Origin: http://localhost:9090", "", ""},
		{"a proxy", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "X-Forwarded-For: 127.0.0.1", "", ""},
		{"a proxy that says less", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "X-Forwarded-Proto: https", "", ""},
		{"a proxy by the standard", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "Forwarded: for=127.0.0.1", "", ""},
		{"another proxy", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "X-Real-IP: 127.0.0.1", "", ""},
		{"a proxy that names itself", "10.0.0.7", "127.0.0.1:5", "localhost:8080", "Via: 1.1 cache", "", ""},
	} {
		s := newServer(nil, 0, 1)
		s.addr = &net.TCPAddr{IP: net.ParseIP(request.listen), Port: 8080}
		r := &http.Request{RemoteAddr: request.peer, Host: request.host, Header: http.Header{}}
		if name, value, ok := strings.Cut(request.header, ": "); ok {
			r.Header.Set(name, value)
		}
		if got := s.urlForOthers(r, request.room); got != request.want {
			t.Errorf("%s: %q, want %q", request.what, got, request.want)
		}
	}
	r := &http.Request{RemoteAddr: "127.0.0.1:5", Host: "localhost"}
	if got := newServer(nil, 0, 1).urlForOthers(r, ""); got != "" {
		t.Errorf("a listener without an address: %q", got)
	}
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		chat.addr = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 8080}
		for peer, want := range map[string]bool{"127.0.0.1:5": true, "192.0.2.2:1234": false} {
			chat.network.PeerAddr = peer
			conn := chat.dial()
			conn.send(wstest.Handshake("localhost:8080", "/ws?room=team", protocol.Subprotocol))
			if _, err := http.ReadResponse(conn.r, nil); err != nil {
				t.Fatal(err)
			}
			_, hello, err := conn.next()
			if err != nil || strings.Contains(hello, `"url":"`+others+`?room=team"}`) != want {
				t.Errorf("%s receives %s, %v", peer, hello, err)
			}
		}
	})
}
