// Package natslog keeps the messages of rooms in a stream of NATS JetStream that any number of
// servers share. The stream defines their order. A server publishes what the clients in a room
// sent as a turn: one message of the stream, with a line for each message of a client. It
// delivers what it reads from the stream, its own turns and those of other servers alike.
//
// A Log hands out only what the stream has stored. A turn is repeated until the stream
// acknowledges it or the Log is closed, and whoever reads ignores a turn that it has read before:
// no line is lost or doubled, whatever happens to the nodes of NATS or the way to them. When the
// stream has lost turns, or no longer has some that were not read, Take says so.
package natslog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chat/internal/protocol"
)

const (
	streamName = "CHAT"

	// publishPrefix begins the subjects of rooms, republishPrefix those of what the stream has stored.
	publishPrefix, republishPrefix = "chat.", "said."

	// maxRoomTurns is how many turns the stream keeps of each room.
	maxRoomTurns = 3000

	// requestTimeout is how long an answer is waited for.
	requestTimeout = 2 * time.Second

	// retryDelay is how long to wait before something that failed is tried again.
	retryDelay = 100 * time.Millisecond

	// lookInterval is how often the stream is looked at.
	lookInterval = time.Second

	// awayAfter is how long the stream may not answer before it counts as away.
	awayAfter = 10 * time.Second

	// looksBefore is how many consecutive looks at the stream must agree before their result
	// is believed: a leader that was frozen may answer late.
	looksBefore = 3

	// silentAfter is how long the stream may have more than was read.
	silentAfter = 4 * time.Second

	// complainInterval is the least time between two log lines of one kind that say that
	// NATS does not do what it is asked for.
	complainInterval = 10 * time.Second

	// maxArrived is how many turns may wait to be read. Those above that are fetched.
	maxArrived = 4096

	// maxOpening is how many rooms that are opened are read from the stream at a time.
	maxOpening = 4

	// maxReads is how many rooms that are not open are read at a time.
	maxReads = 4
)

// The reasons for which clients are disconnected.
var (
	OutOfReach = protocol.Disconnect{Code: 1013, Reason: "the chat's log is out of reach", Cause: protocol.LogAway}
	Replaced   = protocol.Disconnect{Code: 1012, Reason: "the chat's log was replaced", Cause: protocol.LogReplaced}
)

// Options say where NATS is, and how to make the stream if it is not there.
type Options struct {
	URLs     []string
	Creds    string        // file with credentials; "" for none
	CA       string        // file with certificates of authorities; "" for those of the system
	Replicas int           // of the stream
	MaxBytes int64         // of the stream; 0 for no limit
	Keep     time.Duration // how long the stream keeps a turn; 0 for ever

	Version  string            // of the program, for the registration as a service
	Metadata map[string]string // for the registration as a service
	Stats    func() any        // for the registration as a service; its result is encoded as JSON
}

// ParseURLs reads a comma-separated list of URLs of NATS; it returns nil for an empty one.
func ParseURLs(list string) (urls []string, err error) {
	if list == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		u, err := url.Parse(item)
		if err != nil || u.Hostname() == "" || u.Scheme != "nats" && u.Scheme != "tls" {
			return nil, fmt.Errorf("%q is not nats://host:port or tls://host:port", item)
		}
		urls = append(urls, item)
	}
	return urls, nil
}

// A Monitor is told what happens. Its methods may be called from any goroutine, and must not
// block.
type Monitor interface {
	Logf(kind, format string, args ...any) // what an operator should know; there may be many of a kind
	Published(took time.Duration)          // the stream has acknowledged a turn, so long after it was published first
	Repeated()                             // a turn was published again
	Fetched(turns int)                     // turns were fetched that did not arrive by themselves
	Gap()                                  // a turn arrived that was not the next
	Unreadable(n int)                      // so many turns or lines of the stream were skipped
}

// A Stream is the log of all rooms. Any goroutine may use it.
type Stream struct {
	options Options
	monitor Monitor
	engine  Engine
	ctx     context.Context // ends all work
	stop    context.CancelFunc
	running sync.WaitGroup

	contact     chan struct{} // closed when the stream was reached first
	secret      [32]byte      // set before that
	arrived     chan *Message
	wakeup      chan struct{} // receives when the stream should be read now
	readerTasks chan func()   // for read to carry out
	openSlots   chan struct{} // a token for each room that open reads
	readSlots   chan struct{} // a token for each room that Kept reads

	cursor       atomic.Uint64            // the last sequence number that was read. Set by reach, then by read
	recent       recentTurns              // ids of the last turns up to the cursor. Owned by read
	lost         atomic.Pointer[lostSpan] // of turns that were read; nil for none. Set by read
	created      atomic.Int64             // when the stream was made, in nanoseconds since 1970. Set by reach, then by read
	unackedTurns atomic.Int64             // turns that were published and not acknowledged
	isAway       atomic.Bool              // the stream does not answer
	isStuck      atomic.Bool              // the stream stores nothing
	begun        time.Time                // when this was made
	stored       instant                  // when a turn was stored last, since begun
	answered     instant                  // when a turn was last read or acknowledged, since begun
	left         atomic.Int64             // when a node was left last, in nanoseconds since begun
	wanted       atomic.Uint64            // the least sequence number that a Log wants to be told of
	looks        looks
	complaints   complaints
	local        *localPresence
	remote       *remotePresence

	mu   sync.Mutex
	logs map[string]map[*Log]bool // by subject
}

// An instant is a time that any goroutine may set and read. It is kept as the time that has
// passed since another one: a clock that is set does not change it. Its zero value is that
// other one.
type instant struct{ nanoseconds atomic.Int64 }

// setNow sets the instant to now.
func (i *instant) setNow(begun time.Time) { i.nanoseconds.Store(int64(time.Since(begun))) }

// time returns when it was.
func (i *instant) time(begun time.Time) time.Time {
	return begun.Add(time.Duration(i.nanoseconds.Load()))
}

// looks are what the last looks at the stream showed.
type looks struct {
	mu      sync.Mutex
	begun   int64               // how many
	numbers [looksBefore]int64  // of the last that succeeded
	ends    [looksBefore]uint64 // of the stream, as these showed
}

// Open returns the stream. It does not wait until NATS is reached, which is looked for until
// the caller calls Close. An error says that a setting is wrong.
func Open(o Options, monitor Monitor) (*Stream, error) {
	s := newStream(o, monitor)
	c, err := connect(o, s.wake, s.logLimited)
	if err != nil {
		return nil, err
	}
	s.start(c)
	return s, nil
}

// OpenOn returns the stream on a connection, which Close closes.
func OpenOn(e Engine, o Options, monitor Monitor) *Stream {
	s := newStream(o, monitor)
	s.start(e)
	return s
}

func newStream(o Options, monitor Monitor) *Stream {
	s := &Stream{
		options:     o,
		monitor:     monitor,
		begun:       time.Now(),
		contact:     make(chan struct{}),
		arrived:     make(chan *Message, maxArrived),
		wakeup:      make(chan struct{}, 1),
		readerTasks: make(chan func()),
		openSlots:   make(chan struct{}, maxOpening),
		readSlots:   make(chan struct{}, maxReads),
		logs:        make(map[string]map[*Log]bool),
	}
	s.wanted.Store(nothingWanted)
	s.complaints.at = make(map[string]time.Time)
	s.local, s.remote = newLocalPresence(), newRemotePresence()
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// start runs everything on an engine.
func (s *Stream) start(e Engine) {
	s.engine = e
	s.running.Go(s.run)
}

// run makes contact, and then watches the stream.
func (s *Stream) run() {
	if !s.makeContact() {
		return
	}
	s.running.Go(s.read)
	s.running.Go(s.publishPresence)
	s.watch()
}

// Close ends all work and waits for that, at most for wait: a node that is frozen takes no
// goodbye. All Logs must be closed before.
func (s *Stream) Close(wait time.Duration) {
	s.stop()
	ended := make(chan struct{})
	go func() {
		s.goodbye()
		s.engine.Close()
		s.running.Wait()
		close(ended)
	}()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		s.monitor.Logf("nats goodbye", "nats: the connection could not be closed in time")
	}
}

// Await waits until the stream was reached first, at most for wait or until ctx is done. It
// reports whether the stream is within reach now.
func (s *Stream) Await(ctx context.Context, wait time.Duration) bool {
	select {
	case <-s.contact:
		return s.outage() == nil
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-s.contact:
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
	return s.outage() == nil
}

// IsConnected reports whether there is a connection to NATS.
func (s *Stream) IsConnected() bool { return s.engine.IsConnected() }

// UnackedTurns returns how many turns were published and are not acknowledged.
func (s *Stream) UnackedTurns() int64 { return s.unackedTurns.Load() }

// Secret returns 32 random bytes, the same on all servers. It waits until the stream was
// reached first, for ever if it was not before Close.
func (s *Stream) Secret() [32]byte {
	<-s.contact
	return s.secret
}

// outage returns why clients must be disconnected now: nil while the stream is within reach.
func (s *Stream) outage() *protocol.Disconnect {
	if s.isAway.Load() || s.isStuck.Load() {
		return &OutOfReach
	}
	return nil
}

// makeContact tries to reach the stream until it succeeds, and makes the stream if it is
// missing. It reports false if the Stream was closed before.
func (s *Stream) makeContact() bool {
	subscribed := false
	since := time.Now()
	for {
		var err error
		if !subscribed {
			err = s.subscribe()
			subscribed = err == nil
		}
		if subscribed {
			err = s.reach()
		}
		if err == nil {
			break
		}
		if isLate := time.Since(since) >= awayAfter; isLate || s.engine.IsConnected() {
			s.logLimited("nats away", "nats: the stream %s is out of reach: %v", streamName, err)
			s.isAway.Store(isLate)
		}
		if time.Since(since) >= maxErrors*lookInterval {
			s.leaveNode() // it may be cut off from the others
		}
		if !s.sleep(3 * retryDelay) {
			return false
		}
	}
	s.isAway.Store(false)
	close(s.contact)
	if err := s.engine.Serve("chat", s.options.Version, s.options.Metadata, s.options.Stats); err != nil {
		s.monitor.Logf("nats service", "nats: not registered as a service: %v", err)
	}
	return true
}

// subscribe subscribes to what the stream stores, and to what other servers tell.
func (s *Stream) subscribe() error {
	if err := s.engine.Subscribe(republishPrefix+">", s.arrive); err != nil {
		return err
	}
	return s.engine.Subscribe(presenceSubject, s.receivePresence)
}

// reach asks once for what is needed of the stream, and notes it.
func (s *Stream) reach() error {
	info, err := s.ensure()
	if err != nil {
		return err
	}
	var offer [32]byte
	rand.Read(offer[:])
	secret, err := s.sharedSecret(offer)
	if err != nil {
		return fmt.Errorf("the secret: %w", err)
	}
	s.check(info)
	s.secret = secret
	s.cursor.Store(info.State.LastSeq)
	s.created.Store(info.Created.UnixNano())
	s.looks.note(s.looks.begin(), info)
	return nil
}

// leaveNode connects anew, to another node if there is one, but at most once in
// maxErrors*lookInterval.
func (s *Stream) leaveNode() {
	const least = maxErrors * lookInterval
	now := int64(time.Since(s.begun))
	if last := s.left.Load(); s.engine.IsConnected() && now-last >= int64(least) && s.left.CompareAndSwap(last, now) {
		s.engine.Reconnect()
	}
}

// sleep waits. It reports false if the stream was closed.
func (s *Stream) sleep(d time.Duration) bool { return sleep(s.ctx, d) }

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// complaints are when something was last logged, by kind.
type complaints struct {
	mu sync.Mutex
	at map[string]time.Time
}

// logLimited logs what happens again and again while NATS is away: at most one line of a kind
// in complainInterval.
func (s *Stream) logLimited(kind, format string, args ...any) {
	s.complaints.mu.Lock()
	defer s.complaints.mu.Unlock()
	now := time.Now()
	if at, ok := s.complaints.at[kind]; ok && now.Sub(at) < complainInterval {
		return
	}
	s.complaints.at[kind] = now
	s.monitor.Logf(kind, format, args...)
}

// wake makes read fetch what is new at once.
func (s *Stream) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// newID returns an id that no other hub or server has.
func newID() string {
	var id [8]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// subject returns the subject of a room.
func subject(room string) string {
	if room == "" {
		return publishPrefix + "lobby"
	}
	return publishPrefix + "room." + protocol.PlainRoom(room)
}

// errAnswer says that an answer could not be understood.
var errAnswer = errors.New("the answer cannot be read")
