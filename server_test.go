package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/wstest"
)

// The program around the room: requests, limits, the process and its signals.

func TestPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		resp, body := chat.ask("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n")
		if resp.StatusCode != 200 || body != page || strings.Contains(body, "\r") {
			t.Errorf("%s, %d bytes", resp.Status, len(body))
		}
		policy := resp.Header.Get("Content-Security-Policy")
		for name, want := range map[string]string{
			"Content-Type":           "text/html; charset=utf-8",
			"Cache-Control":          "no-cache",
			"X-Content-Type-Options": "nosniff",
			"X-Frame-Options":        "DENY",
			"Referrer-Policy":        "no-referrer",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		for _, part := range []string{
			"default-src 'none'", "frame-ancestors 'none'", "connect-src 'self' ws: wss:",
			"script-src 'sha256-" + digest(element("script")) + "'",
			"style-src 'sha256-" + digest(element("style")) + "'",
		} {
			if !strings.Contains(policy, part) {
				t.Errorf("the policy lacks %q: %s", part, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || element("script") == "" || element("style") == "" {
			t.Errorf("the policy allows too much, or hashes nothing: %s", policy)
		}
		resp, body = chat.ask("GET / HTTP/1.1\r\nHost: chat.test\r\nIf-None-Match: " + resp.Header.Get("ETag") + "\r\n\r\n")
		if resp.StatusCode != http.StatusNotModified || body != "" {
			t.Errorf("asked again with the ETag: %s, %d bytes", resp.Status, len(body))
		}
	})
}

func TestLineEnds(t *testing.T) {
	if got := withLF("a\r\nb\nc\r"); got != "a\nb\nc\r" {
		t.Errorf("%q", got)
	}
}

// Requests that are refused, or answered otherwise than with a connection, leave no
// connection and take no slot.
func TestRequests(t *testing.T) {
	for _, request := range wstest.Requests("chat.test") {
		t.Run(request.What, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				chat := startChat(t)
				resp, body := chat.ask(request.Send)
				name, value, _ := strings.Cut(request.Header, ": ")
				if resp.StatusCode != request.Status || resp.Header.Get(name) != value || body == "" {
					t.Errorf("%s %v %q", resp.Status, resp.Header, body)
				}
				time.Sleep(time.Minute)
				chat.wantClients(0)
				if n := chat.network.Open(); n != 0 {
					t.Errorf("%d connections are left", n)
				}
			})
		})
	}
}

// A room may be full. Those who are in it do not notice, and one place is given to one.
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

// One that takes its time to ask is cut off, as is one that keeps a connection without
// asking for more, but neither at once.
func TestSlowRequests(t *testing.T) {
	for _, slow := range []struct {
		what, send string
		limit      time.Duration
	}{
		{"nothing", "", 5 * time.Second},
		{"half a request", "GET / HTTP/1.1\r\nHost: ch", 5 * time.Second},
		{"a request, then nothing", "GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n", 60 * time.Second},
		{"half a body", "GET /x HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 10\r\n\r\nhalf", 6 * time.Second},
	} {
		t.Run(slow.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				chat := startChat(t)
				conn := chat.dial()
				conn.send(slow.send)
				time.Sleep(slow.limit - 2*time.Second)
				if synctest.Wait(); chat.network.Open() != 1 {
					t.Errorf("cut off before %v", slow.limit)
				}
				conn.wantGone(3 * time.Second)
			})
		})
	}
}

// One that asks for the page and does not read it is cut off.
func TestSlowResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		chat.network.Window = 1 << 10
		conn := chat.dial()
		conn.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n")
		time.Sleep(11 * time.Second)
		if synctest.Wait(); chat.network.Open() != 0 {
			t.Error("still there after 11 s")
		}
	})
}

func TestOrigin(t *testing.T) {
	listed := []string{"chat.example", "other.example:8443", "[2001:db8::7]"}
	for _, page := range []struct {
		origins []string
		host    string // that it asks
		origin  string // where it comes from
		allowed bool
	}{
		{nil, "chat.test", "", true}, // no browser
		{nil, "chat.test", "http://chat.test", true},
		{nil, "chat.test", "https://CHAT.test", true}, // TLS ends at a proxy
		{nil, "chat.test:8080", "http://chat.test:8080", true},
		{nil, "192.168.1.5:8080", "http://192.168.1.5:8080", true},
		{nil, "[::1]:8080", "http://[::1]:8080", true},
		{nil, "chat.test", "http://evil.test", false},
		{nil, "chat.test:8080", "http://chat.test", false},
		{nil, "chat.test", "null", false}, // a sandboxed frame, a file
		{nil, "", "null", false},
		{nil, "chat.test", "http://chat.test.evil.test", false},
		{nil, "chat.test", "://", false},

		{listed, "127.0.0.1:8080", "", true},
		{listed, "127.0.0.1:8080", "https://chat.example", true},
		{listed, "127.0.0.1:8080", "https://chat.example:1234", true},
		{listed, "127.0.0.1:8080", "https://Other.Example:8443", true},
		{listed, "127.0.0.1:8080", "https://other.example", false},
		{listed, "127.0.0.1:8080", "https://[2001:db8::7]", true},
		{listed, "127.0.0.1:8080", "https://[2001:db8::7]:8443", true},
		{listed, "127.0.0.1:8080", "http://127.0.0.1:8080", true},
		{listed, "localhost:8080", "http://localhost:8080", true},
		{listed, "[::1]:8080", "http://[::1]:8080", true},
		{listed, "127.0.0.1:8080", "http://192.0.2.66", false},           // somebody else's page
		{listed, "rebound.test:8080", "http://rebound.test:8080", false}, // DNS rebinding
		{listed, "localhost.evil.test", "http://localhost.evil.test", false},
	} {
		t.Run(fmt.Sprint(page.origins != nil, page.host, page.origin), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := captureLog(t)
				chat := startChat(t, func(s *server) { s.origins = page.origins })
				request := strings.Replace(handshake, "Host: chat.test\r\n", "Host: "+page.host+"\r\n", 1)
				if page.origin != "" {
					request = strings.Replace(request, "\r\n\r\n", "\r\nOrigin: "+page.origin+"\r\n\r\n", 1)
				}
				want := 403
				if page.allowed {
					want = 101
				}
				resp, body := chat.ask(request)
				if resp.StatusCode != want {
					t.Errorf("%s, want %d", resp.Status, want)
				}
				if !page.allowed {
					wantLogged(t, log, 1, strconv.Quote(page.origin)+"; to let it in, add its host to -origin")
					if !strings.Contains(body, "may not join") {
						t.Errorf("the answer is %q", body)
					}
				}
			})
		})
	}
}

// What happens a hundred times a second is logged once, and then how often.
func TestLogIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t)
		for range 50 {
			chat.upgrade().send(wstest.Masked(wstest.Fin|wstest.Binary, ""))
			time.Sleep(49 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		wantLogged(t, log, 1, "192.0.2.2:1234 disconnected: only text is said here\n")
		wantLogged(t, log, 2, "disconnected: 20 more\n")
		wantLogged(t, log, 1, "disconnected: 9 more\n")
		wantLogged(t, log, 4, "\n")
	})
}

// The counters have a listener of their own, and that has nothing else.
func TestMetricsArePrivate(t *testing.T) {
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
			there := &chat{t: t, network: request.network}
			resp, _ := there.ask("GET " + request.path + " HTTP/1.1\r\nHost: chat.test\r\n\r\n")
			if resp.StatusCode != request.status {
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
		resp, body := chat.ask("GET /healthz HTTP/1.1\r\nHost: chat.test\r\n\r\n")
		if resp.StatusCode != http.StatusOK || body != "ok" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q", resp.Status, body)
		}
	})
}

// Behind a proxy on this machine the log tells for whom that asks; from anywhere else,
// anyone might have written it.
func TestPeerOf(t *testing.T) {
	for _, request := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"127.0.0.1:5", nil, "127.0.0.1:5"},
		{"127.0.0.1:5", []string{"203.0.113.9"}, `127.0.0.1:5 for "203.0.113.9"`},
		{"[::1]:5", []string{"198.51.100.1, 203.0.113.9"}, `[::1]:5 for "203.0.113.9"`},
		{"[::ffff:127.0.0.1]:5", []string{"198.51.100.1", "2001:db8::9"}, `[::ffff:127.0.0.1]:5 for "2001:db8::9"`},
		{"127.0.0.1:5", []string{"\x1b[31mred\n"}, `127.0.0.1:5 for "\x1b[31mred"`},
		{"127.0.0.1:5", []string{strings.Repeat("9", 5000)}, `127.0.0.1:5 for "` + strings.Repeat("9", 60) + `"`},
		{"203.0.113.7:5", []string{"127.0.0.1"}, "203.0.113.7:5"},
		{"pipe", []string{"127.0.0.1"}, "pipe"},
	} {
		r := &http.Request{RemoteAddr: request.peer, Header: http.Header{"X-Forwarded-For": request.forwarded}}
		if got := peerOf(r); got != request.want {
			t.Errorf("%v: %s", request, got)
		}
	}
}

func TestRefusedRoomName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		resp, body := chat.ask(strings.Replace(handshake, "/ws", "/ws?room=a%2Fb", 1))
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "letters") {
			t.Errorf("%s %q", resp.Status, body)
		}
	})
}
