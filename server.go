package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/access"
	"chat/internal/address"
	"chat/internal/budget"
	"chat/internal/connlimit"
	"chat/internal/filelog"
	"chat/internal/history"
	"chat/internal/metrics"
	"chat/internal/natslog"
	"chat/internal/page"
	"chat/internal/protocol"
	"chat/internal/ratelog"
)

// handshakeTimeout is how long a peer may take to receive the answer to its handshake, for
// which any socket's buffer has room. A stop waits for it.
const handshakeTimeout = time.Second

// contactTimeout is how long a newcomer waits for the log that servers share when it was
// never reached.
const contactTimeout = 3 * time.Second

// drainTimeout is how long a stop waits for HTTP requests that are being answered.
const drainTimeout = time.Second

// logTimeout is how long a stop that is over waits until it is in the log.
const logTimeout = 100 * time.Millisecond

// stopTimeout is how long a stop takes at most: what is left after the clients is for the
// disk or NATS. It is under the five seconds that are promised.
const stopTimeout = 4900 * time.Millisecond

// extraConns is how many connections there may be beside those of clients, for the page and
// for handshakes. Those that are idle make place for new ones.
const extraConns = 256

// idleTimeoutHTTP is how long a connection may be idle between two requests.
const idleTimeoutHTTP = 5 * time.Second

// addressRates is how many times the rate of one connection an address may send over all
// of its connections.
const addressRates = 10

// maxEarlier is how many messages one request for the history gets, at most.
const maxEarlier = 100

// historyCost is how many messages a request for the history costs its address.
const historyCost = 10

// server is the program between its flags and its listeners.
type server struct {
	origins  access.Origins  // hosts whose pages may join; nil for any, each its own
	rate     float64         // messages a second from one connection, addressRates times as many from one address; 0 for no limits
	proxies  access.Proxies  // peers whose X-Forwarded-For says where a request comes from
	slots    chan struct{}   // a token for each connection, from before its upgrade until nothing of it is left
	secret   [32]byte        // made at start, or kept by openHistory; see userID
	dir      *filelog.Dir    // where history is kept; nil without -history
	stream   *natslog.Stream // the log that servers share, and their secret; nil without -nats
	upgrader websocket.Upgrader
	logger   *ratelog.Logger
	counters *metrics.Counters
	addr     *net.TCPAddr        // that it listens on; set by serve, nil if it is of another kind
	rooms    *rooms              // made by start
	budgets  *budget.Budgets     // made by start
	conns    *connlimit.Listener // made by serve
}

// newServer returns a server that accepts pages of these hosts (nil for any), so many
// messages a second from each connection (0 for no limit), and so many connections.
func newServer(origins access.Origins, rate float64, maxClients int) *server {
	s := &server{
		origins:  origins,
		rate:     rate,
		proxies:  access.Loopback,
		slots:    make(chan struct{}, maxClients),
		logger:   ratelog.New(),
		counters: metrics.New(),
	}
	rand.Read(s.secret[:])
	s.upgrader = websocket.Upgrader{
		Subprotocols:     []string{protocol.Subprotocol},
		HandshakeTimeout: handshakeTimeout,
		ReadBufferSize:   512,
		WriteBufferPool:  new(sync.Pool), // stays empty: without a pool each connection would have a buffer that nobody uses
		CheckOrigin:      func(r *http.Request) bool { return s.origins.Allow(r) },
		Error:            s.refuseHandshake,
	}
	return s
}

// openHistory keeps what is said in files in a directory, and in memory no longer than for
// keep without a message; 0 is for ever. serve closes them.
func (s *server) openHistory(dir string, keep time.Duration) (err error) {
	if s.dir, err = filelog.Open(dir, keep, monitor{s.logger, s.counters}); err == nil {
		s.secret = s.dir.Secret()
	}
	return err
}

// openStream shares rooms with all servers that do the same, over NATS. serve closes what it
// opens. Where the server listens is for those who list the servers.
func (s *server) openStream(o natslog.Options, addr string) (err error) {
	o.Version = metrics.ReadBuild().Version
	host, _ := os.Hostname() // "" without one
	o.Metadata = map[string]string{"host": host, "addr": addr}
	o.Stats = func() any {
		return map[string]int64{"connections": int64(len(s.slots)), "messages": s.counters.Messages.Load(), "deliveries": s.counters.Deliveries.Load()}
	}
	s.stream, err = natslog.Open(o, monitor{s.logger, s.counters})
	return err
}

// A monitor logs and counts what happens to what is kept: in files, or in the stream that
// servers share. It implements filelog.Monitor and natslog.Monitor.
type monitor struct {
	logger   *ratelog.Logger
	counters *metrics.Counters
}

// Logf implements both.
func (m monitor) Logf(kind, format string, args ...any) { m.logger.Printf(kind, format, args...) }

// Wrote implements filelog.Monitor.
func (m monitor) Wrote(lines, bytes int, took time.Duration) {
	m.counters.HistoryLines.Add(int64(lines))
	m.counters.HistoryBytes.Add(int64(bytes))
	m.counters.HistoryWrite.Add(took)
}

// Synced implements filelog.Monitor.
func (m monitor) Synced(took time.Duration) { m.counters.HistorySync.Add(took) }

// Failed implements filelog.Monitor.
func (m monitor) Failed() { m.counters.HistoryErrors.Add(1) }

// Published implements natslog.Monitor.
func (m monitor) Published(took time.Duration) { m.counters.NATSPublish.Add(took) }

// Repeated implements natslog.Monitor.
func (m monitor) Repeated() { m.counters.NATSRepeated.Add(1) }

// Fetched implements natslog.Monitor.
func (m monitor) Fetched(turns int) { m.counters.NATSFetched.Add(int64(turns)) }

// Gap implements natslog.Monitor.
func (m monitor) Gap() { m.counters.NATSBreaks.Add(1) }

// Unreadable implements natslog.Monitor.
func (m monitor) Unreadable(n int) { m.counters.NATSUnreadable.Add(int64(n)) }

// serve runs the chat on a listener, and shows the metrics on another one unless that is
// nil, until ctx is done. It returns nil then, or the error of a listener that fails
// first. It closes both listeners, the files of history and the stream. When it returns,
// within five seconds of ctx's end, no goroutine and no connection of its own is left; only
// one that waits for a disk or a node of NATS which does not answer may be.
func (s *server) serve(ctx context.Context, l, metricsListener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.addr, _ = l.Addr().(*net.TCPAddr)
	s.start(ctx)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", serveHome)
	mux.HandleFunc("GET /ws", s.handleWs)
	mux.HandleFunc("GET /history", s.serveHistory)
	mux.HandleFunc("GET /healthz", s.serveHealth)
	chatServer := s.newHTTPServer(mux)
	s.conns = connlimit.New(l, cap(s.slots)+extraConns)
	chatServer.ConnState = s.conns.ConnState
	failed := make(chan error, 2)
	go func() { failed <- chatServer.Serve(s.conns) }()
	if metricsListener != nil {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /metrics", s.serveMetrics)
		metricsServer := s.newHTTPServer(mux)
		defer metricsServer.Close() // last, so that it shows the end, too
		go func() { failed <- metricsServer.Serve(metricsListener) }()
	}
	var err error
	logged := make(chan struct{})
	select {
	case err = <-failed:
		cancel()
		close(logged)
	case <-ctx.Done():
		go func() { // where the log goes, a terminal perhaps, may block
			log.Print("stopping")
			close(logged)
		}()
	}

	begin := time.Now()
	// Shutdown alone would wait for connections that have sent nothing yet, and does not
	// know those that were upgraded.
	drain, cancelDrain := context.WithTimeout(context.Background(), drainTimeout)
	defer cancelDrain()
	if chatServer.Shutdown(drain) != nil {
		chatServer.Close()
	}
	s.awaitClients()
	s.rooms.running.Wait()
	left := max(stopTimeout-time.Since(begin), 100*time.Millisecond)
	if s.dir != nil {
		s.dir.Close(left)
	}
	if s.stream != nil {
		s.stream.Close(left)
	}
	select {
	case <-logged:
	case <-time.After(logTimeout):
	}
	return err
}

// start makes what needs the settings, and runs the lobby until ctx is done.
func (s *server) start(ctx context.Context) {
	s.rooms = newRooms(ctx, s.logger, s.counters, s.dir, s.stream)
	s.budgets = budget.New(s.interval()/addressRates, burst)
}

// interval returns the time between two messages of one connection, in the long run; 0 for
// no limit.
func (s *server) interval() time.Duration {
	if s.rate == 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / s.rate)
}

// awaitClients waits until no client is left, by taking every slot. (A WaitGroup would
// not do: a handshake under way may still add a client.)
func (s *server) awaitClients() {
	for range cap(s.slots) {
		s.slots <- struct{}{}
	}
}

// newHTTPServer returns an HTTP server with the limits that hold for every request.
func (s *server) newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second,
		WriteTimeout:   10 * time.Second,
		IdleTimeout:    idleTimeoutHTTP,
		MaxHeaderBytes: 12 << 10, // the library reads 4 KiB more before it answers 431
		ErrorLog:       log.New(s.logger, "", 0),
	}
}

// home is the page as it is in the source tree.
//
//go:embed home.html
var home string

var homePage = page.New(home)

// serveHome answers with the page.
func serveHome(w http.ResponseWriter, r *http.Request) { homePage.ServeHTTP(w, r) }

// logAway is what the server answers while the log that servers share is out of reach.
const logAway = "The chat's log is out of reach."

// serveHealth answers a health check while the server runs. While it stops or does not
// run, connections are refused.
func (s *server) serveHealth(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if s.stream != nil && !s.stream.Await(r.Context(), 0) {
		http.Error(w, logAway, http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "ok") // an error says that nobody waits for it
}

// serveMetrics answers with the metrics.
func (s *server) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", metrics.ContentType)
	g := metrics.Gauges{
		Rooms:              s.rooms.count(),
		HTTPConnections:    s.conns.HTTP(),
		ThrottledAddresses: s.budgets.Throttled(),
		UndeliveredBytes:   s.rooms.backlog.Bytes(),
	}
	if s.stream != nil {
		g.NATSConnected, g.NATSTurns = s.stream.IsConnected(), s.stream.UnackedTurns()
	}
	w.Write(s.counters.Text(g)) // an error says that nobody waits for it
}

// handleWs admits a client to a room, or answers why not. The order of the checks is part
// of the protocol: a plain GET of the same URL, which gets as far as 426, tells a page why it
// was refused.
func (s *server) handleWs(w http.ResponseWriter, r *http.Request) {
	query, room, ok := s.parseQuery(w, r)
	if !ok {
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		s.refuseFull(w, r, protocol.ServerFull, "The chat is full.")
		return
	}
	if s.stream != nil && !s.stream.Await(r.Context(), contactTimeout) {
		<-s.slots
		s.refuseFull(w, r, protocol.LogUnreachable, logAway)
		return
	}
	addr, peer := s.proxies.PeerOf(r)
	budget := s.budgets.Of(addr)
	release := func() {
		budget.Release()
		<-s.slots
	}
	hub := s.enterRoom(w, r, room, budget)
	if hub == nil {
		release()
		return
	}
	c := &Client{
		hub:         hub,
		peer:        peer,
		room:        room,
		name:        strings.Clone(protocol.CleanName(query.Get("name"))), // not a piece of the request, which it outlives
		userID:      s.userID(query.Get("key")),
		resumeAfter: history.ParsePosition(query.Get("after")),
		pageURL:     s.urlForOthers(r, room),
		interval:    s.interval(),
		budget:      budget,
	}
	serveWs(c, &s.upgrader, w, r, func(hijacked bool) {
		s.rooms.leave(room)
		release()
		if hijacked {
			s.conns.Done()
		}
	})
}

// parseQuery returns the query of a request and the room that it names. If there is no such
// room, it answers why.
func (s *server) parseQuery(w http.ResponseWriter, r *http.Request) (query url.Values, room string, ok bool) {
	query, err := url.ParseQuery(r.URL.RawQuery) // r.URL.Query() would leave out what it cannot read
	if err != nil {
		s.counters.Refusals[protocol.BadQuery].Add(1)
		http.Error(w, "The query of this address cannot be read.", http.StatusBadRequest)
		return nil, "", false
	}
	room, ok = protocol.RoomName(query.Get("room"))
	if !ok {
		s.counters.Refusals[protocol.BadRoomName].Add(1)
		http.Error(w, fmt.Sprintf("A room's name has up to %d letters, digits, - and _.", protocol.MaxRoomName), http.StatusBadRequest)
	}
	return query, room, ok
}

// enterRoom counts a client into a room and returns its hub. If the client cannot come in,
// it answers why and returns nil. A client whose address makes many rooms waits a moment.
func (s *server) enterRoom(w http.ResponseWriter, r *http.Request, room string, budget *budget.Budget) *Hub {
	if s.rooms.admits(room) {
		if !websocket.IsWebSocketUpgrade(r) || !r.ProtoAtLeast(1, 1) {
			s.counters.Refusals[protocol.NotWebSocket].Add(1)
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			http.Error(w, "This address is for WebSocket connections. The page is one level up.", http.StatusUpgradeRequired)
			return nil
		}
		if !s.rooms.has(room) {
			time.Sleep(budget.Room())
		}
		if hub := s.rooms.enter(room); hub != nil {
			return hub
		}
	}
	s.refuseFull(w, r, protocol.TooManyRooms, "There are too many rooms.")
	return nil
}

// refuseFull answers that a limit is reached, or the log is out of reach, as a sentence says.
func (s *server) refuseFull(w http.ResponseWriter, r *http.Request, refusal protocol.Refusal, sentence string) {
	s.counters.Refusals[refusal].Add(1)
	_, peer := s.proxies.PeerOf(r)
	s.logger.Printf(refusal.String(), "%s refused: %s", peer, sentence)
	w.Header().Set("Retry-After", "10")
	http.Error(w, sentence+" Try again in a while.", http.StatusServiceUnavailable)
}

// refuseHandshake answers a handshake that the library does not accept.
func (s *server) refuseHandshake(w http.ResponseWriter, r *http.Request, status int, reason error) {
	sentence := strings.TrimPrefix(reason.Error(), "websocket: ")
	if status == http.StatusForbidden {
		sentence = s.refuseOrigin(r, r.Header.Get("Origin"))
	} else {
		s.counters.Refusals[protocol.BadHandshake].Add(1)
	}
	if status == http.StatusMethodNotAllowed { // a HEAD that asks for an upgrade
		w.Header().Set("Allow", http.MethodGet)
	}
	w.Header().Set("Sec-WebSocket-Version", "13") // RFC 6455, section 4.4
	http.Error(w, sentence, status)
}

// refuseOrigin counts and logs that a page of an origin may not use the chat, and returns a
// sentence that says so.
func (s *server) refuseOrigin(r *http.Request, origin string) string {
	s.counters.Refusals[protocol.BadOrigin].Add(1)
	_, peer := s.proxies.PeerOf(r)
	s.logger.Printf("origin", "%s refused: a page of %q; to let it in, add its host to -origin", peer, origin)
	return fmt.Sprintf("A page of %q may not join this chat.", origin)
}

// serveHistory answers with messages that a room keeps, as ChatV1 spells them: the last ones,
// or those before an id.
func (s *server) serveHistory(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	query, room, ok := s.parseQuery(w, r)
	if !ok {
		return
	}
	before := uint64(math.MaxInt64)
	if text := query.Get("before"); text != "" {
		var err error
		if before, err = strconv.ParseUint(text, 10, 63); err != nil {
			s.counters.Refusals[protocol.BadQuery].Add(1)
			http.Error(w, "What comes after before= must be the id of a message.", http.StatusBadRequest)
			return
		}
	}
	if origin, ok := s.origins.AllowRead(r); !ok {
		http.Error(w, s.refuseOrigin(r, origin), http.StatusForbidden)
		return
	}
	addr, _ := s.proxies.PeerOf(r)
	budget := s.budgets.Of(addr)
	defer budget.Release()
	if !budget.Take(historyCost) {
		s.counters.Refusals[protocol.HistoryLimit].Add(1)
		wait := historyCost * s.interval() / addressRates
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		http.Error(w, "Earlier messages were asked for too often. Try again in a while.", http.StatusServiceUnavailable)
		return
	}
	kept, err := s.rooms.history(r.Context(), room)
	if err != nil {
		if s.stream != nil {
			s.counters.Refusals[protocol.LogUnreachable].Add(1)
		}
		h.Set("Retry-After", "10")
		http.Error(w, "What was said cannot be read now. Try again in a while.", http.StatusServiceUnavailable)
		return
	}
	entries := history.Before(kept, int64(before), maxEarlier)
	size := 0
	for _, e := range entries {
		size += len(e.Payload) + 1
	}
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Content-Length", strconv.Itoa(size))
	for _, e := range entries {
		w.Write(e.Payload) // an error says that nobody waits for it
		io.WriteString(w, "\n")
	}
}

// userID returns what tells the holder of a key from others of the same name: the same
// for the same key until the server stops, with -history and -nats for ever, and of no use
// to find the key. Without a key it is random.
func (s *server) userID(key string) string {
	var id [8]byte
	if key == "" {
		rand.Read(id[:])
	} else {
		secret := s.secret
		if s.stream != nil {
			secret = s.stream.Secret()
		}
		mac := hmac.New(sha256.New, secret[:])
		mac.Write([]byte(key))
		copy(id[:], mac.Sum(nil))
	}
	return hex.EncodeToString(id[:])
}

// urlForOthers returns the URL at which other machines open a room. It is "" if they cannot,
// and unless a request comes from this machine itself, for localhost and by way of no proxy:
// nobody else is to learn the address of this machine in its network.
func (s *server) urlForOthers(r *http.Request, room string) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	host := url.URL{Host: r.Host}
	if err != nil || !peer.Addr().Unmap().IsLoopback() || !strings.EqualFold(host.Hostname(), "localhost") || s.addr == nil {
		return ""
	}
	if origin := r.Header.Get("Origin"); origin != "" && !strings.EqualFold(origin, "http://"+r.Host) {
		return "" // a page of another host
	}
	for name := range r.Header {
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return ""
		}
	}
	others, _ := address.URLs(s.addr, address.Outward)
	switch {
	case others == "":
		return ""
	case room == lobby:
		return others + "/"
	}
	return others + "/?" + url.Values{"room": {room}}.Encode()
}
