package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/ratelog"
)

// server is the program between its flags and its listener.
type server struct {
	origins  []string      // hosts whose pages may join; nil for any, each its own
	rate     float64       // messages a second from one connection; 0 for no limit
	slots    chan struct{} // one taken by each connection, from before its upgrade until nothing of it is left
	secret   [32]byte      // made at start; see from
	upgrader websocket.Upgrader
	log      *ratelog.Logger
	counters *counters
	rooms    *rooms // made by serve
}

func newServer(origins []string, rate float64, maxClients int) *server {
	s := &server{
		origins:  origins,
		rate:     rate,
		slots:    make(chan struct{}, maxClients),
		log:      ratelog.New(),
		counters: newCounters(),
	}
	rand.Read(s.secret[:])
	s.upgrader = websocket.Upgrader{
		Subprotocols:     []string{subprotocol},
		HandshakeTimeout: time.Second, // to write an answer that any socket's buffer has room for; a stop waits for it
		ReadBufferSize:   512,
		WriteBufferSize:  maxFrame,
		WriteBufferPool:  new(sync.Pool),
		CheckOrigin:      s.allows,
		Error:            s.refuse,
	}
	return s
}

// serve runs the chat on the listener, and shows what it counts on the private one
// unless that is nil, until ctx is done. It returns nil then, and earlier with a
// listener's error if that fails. It closes both, and when it returns, no goroutine
// and no connection of its own is left.
func (s *server) serve(ctx context.Context, l, private net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.rooms = newRooms(ctx, s.log, s.counters)

	public := http.NewServeMux()
	public.HandleFunc("GET /{$}", serveHome)
	public.HandleFunc("GET /ws", s.serveWs)
	public.HandleFunc("GET /healthz", serveHealth)
	web := s.newHTTPServer(public)
	failed := make(chan error, 2)
	go func() { failed <- web.Serve(l) }()
	if private != nil {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /metrics", s.serveMetrics)
		care := s.newHTTPServer(mux)
		defer care.Close() // last, to show the end, too
		go func() { failed <- care.Serve(private) }()
	}
	var err error
	select {
	case err = <-failed:
		cancel()
	case <-ctx.Done():
		log.Print("stopping")
	}

	// Connections that have said nothing yet count as busy, so Shutdown alone would
	// wait for them; and it knows nothing of those upgraded: they give their places back.
	grace, cancelGrace := context.WithTimeout(context.Background(), time.Second)
	defer cancelGrace()
	if web.Shutdown(grace) != nil {
		web.Close()
	}
	for range cap(s.slots) {
		s.slots <- struct{}{}
	}
	s.rooms.running.Wait()
	return err
}

// newHTTPServer returns an HTTP server with the limits that hold for everyone.
func (s *server) newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second,
		WriteTimeout:   10 * time.Second,
		IdleTimeout:    60 * time.Second,
		MaxHeaderBytes: 12 << 10, // the library reads 4 KiB more before it answers 431
		ErrorLog:       log.New(s.log, "", 0),
	}
}

// allows reports whether the page that asks may join: DNS rebinding, where a
// hostile page's own host suddenly stands for this machine, is only seen when it is
// known which hosts there should be. A program that is no browser sends no origin.
func (s *server) allows(r *http.Request) bool {
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	if err != nil || len(origins) > 1 || u.Host == "" {
		return false
	}
	same := strings.EqualFold(u.Host, r.Host)
	if s.origins == nil {
		return same
	}
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); same && (err == nil || strings.EqualFold(host, "localhost")) {
		return true // no name server had a say in it
	}
	return slices.ContainsFunc(s.origins, func(listed string) bool {
		return strings.EqualFold(listed, u.Host) || strings.EqualFold(strings.Trim(listed, "[]"), host)
	})
}

//go:embed home.html
var home string

// What a browser gets as the page, with all it needs to check it. A browser hashes
// what it parsed, in which every line ends in LF, so that is what is served.
var (
	page       = withLF(home)
	pageETag   = `"` + digest(page) + `"`
	pagePolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:" +
		"; connect-src 'self' ws: wss:" +
		"; script-src 'sha256-" + digest(element("script")) + "'" +
		"; style-src 'sha256-" + digest(element("style")) + "'"
)

func withLF(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }

// element returns what stands between the tags of the page's one such element.
func element(name string) string {
	_, rest, _ := strings.Cut(page, "<"+name+">")
	text, _, _ := strings.Cut(rest, "</"+name+">")
	return text
}

// digest returns the SHA-256 of text in base64.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func serveHome(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // ask each time; the ETag makes that cheap
	h.Set("ETag", pageETag)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(page))
}

// serveHealth answers whoever wants to know whether the server runs. When it does not,
// or is stopping, the connection is refused.
func serveHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, "ok") // an error says that nobody waits for it
}

// refuse answers a handshake that the library does not accept.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, status int, reason error) {
	sentence := strings.TrimPrefix(reason.Error(), "websocket: ")
	if status == http.StatusForbidden {
		origin := r.Header.Get("Origin")
		s.counters.refusals.add("origin")
		sentence = fmt.Sprintf("A page of %q may not join this chat.", origin)
		s.log.Printf("origin", "%s refused: a page of %q; to let it in, add its host to -origin", peerOf(r), origin)
	} else {
		s.counters.refusals.add("handshake")
	}
	w.Header().Set("Sec-WebSocket-Version", "13") // RFC 6455, section 4.4
	http.Error(w, sentence, status)
}

// from returns what tells the holder of a key from others of the same name. It gives
// nothing of the key away, and stays the same until the server stops.
func (s *server) userID(key string) string {
	var sum [8]byte
	if key == "" {
		rand.Read(sum[:])
	} else {
		mac := hmac.New(sha256.New, s.secret[:])
		mac.Write([]byte(key))
		copy(sum[:], mac.Sum(nil))
	}
	return hex.EncodeToString(sum[:])
}

// peerOf names a request's peer in the log: its address and, where that is a proxy on
// this machine, the address that the proxy says it asks for. Nothing is decided by that.
func peerOf(r *http.Request) string {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	lines := r.Header["X-Forwarded-For"]
	if err != nil || !addr.Addr().Unmap().IsLoopback() || len(lines) == 0 {
		return r.RemoteAddr
	}
	last := lines[len(lines)-1]
	last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
	return fmt.Sprintf("%s for %.60q", r.RemoteAddr, last)
}
