package natslog

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"chat/internal/presence"
	"chat/internal/protocol"
)

// A Log is one room of a Stream. Its methods are for the room's goroutine.
type Log struct {
	stream    *Stream
	room      string
	subject   string
	publisher string          // for the ids of turns; nobody else's
	ctx       context.Context // ends reading and publishing
	end       context.CancelFunc
	ready     chan struct{} // receives when Take has something

	// owned by the room's goroutine
	window          *window
	isOpen          bool   // the room was read from the stream
	position        uint64 // everything of the room up to this sequence number was taken
	gathered        []byte // lines for the next turn, joined by commas
	lines           int    // how many
	senders         []any  // of these
	underWay        *turn  // published, and not yet taken; nil if there is none
	turns           uint64 // that were published
	presenceVersion uint64 // version of the presence that was taken last
	announced       bool   // SetPresence was called

	mu       sync.Mutex
	queue    []*Message           // turns that came
	snapshot *roomSnapshot        // what the room was before them, until it is taken
	lost     *protocol.Disconnect // why the room is read again, and what was taken does not count; nil if that is not so
	reading  uint64               // which reading of the room counts
	acked    uint64               // sequence number of the turn under way; 0 before it is acknowledged
	wanted   uint64               // sequence number that the room waits for
}

// A turn is what a hub says at once.
type turn struct {
	id      turnID
	data    []byte
	senders []any
	begun   time.Time
	overdue bool // clients were disconnected because it is under way for so long

	isTooLarge atomic.Bool // the stream refuses it
}

// A roomSnapshot is a room as it was read from the stream.
type roomSnapshot struct {
	window *window
	kept   keptMessages
	last   uint64 // sequence number that was read last
}

// A Snapshot is what a room keeps when it was read from the stream.
type Snapshot struct {
	Messages []protocol.Message // the last ones
	GoneID   int64              // nothing that was said after this id is missing in them
}

// A StoredLine is a line that the stream has stored.
type StoredLine struct {
	protocol.Message
	Repeat bool // the line was stored before, and has the id that it had then
	Sender any  // as given to Say; nil if another server said it
}

// An Update is what changed in a room since the last Take. Its fields apply in their order.
type Update struct {
	Lost     *protocol.Disconnect // why all clients must be disconnected; nil if they need not be
	Snapshot *Snapshot            // what the room was read as, at its beginning or again; nil if it goes on
	Lines    []StoredLine         // in the stream's order
}

// Log returns the log of a room. The caller calls Close.
func (s *Stream) Log(room string) *Log {
	l := &Log{
		stream:    s,
		room:      room,
		subject:   subject(room),
		publisher: newID(),
		ready:     make(chan struct{}, 1),
		wanted:    nothingWanted,
	}
	l.ctx, l.end = context.WithCancel(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[l.subject] == nil {
		s.logs[l.subject] = make(map[*Log]bool)
	}
	s.logs[l.subject][l] = true
	s.running.Go(func() { l.open(0) })
	return l
}

// Close ends the log. What was said and is not in the stream is lost.
func (l *Log) Close() {
	l.end()
	s := l.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.logs[l.subject], l)
	if len(s.logs[l.subject]) > 0 { // the room was opened again meanwhile
		return
	}
	delete(s.logs, l.subject)
	if l.announced {
		s.local.set(l.room, presence.Roster{})
	}
}

// Ready returns a channel that receives when Take may return something new. It may also receive
// without that.
func (l *Log) Ready() <-chan struct{} { return l.ready }

// signal makes Ready receive.
func (l *Log) signal() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// IsFull reports whether so much waits to be said that senders should wait.
func (l *Log) IsFull() bool {
	return l.lines >= maxTurnLines || len(l.gathered)+1+maxLineBytes > maxTurnBytes-64
}

// Pending returns how many lines were said and not taken.
func (l *Log) Pending() int {
	n := l.lines
	if l.underWay != nil {
		n += len(l.underWay.senders)
	}
	return n
}

// Say says a line. IsFull must have reported false.
func (l *Log) Say(line Line, sender any) {
	if l.lines > 0 {
		l.gathered = append(l.gathered, ',')
	}
	l.gathered = append(l.gathered, line.encode()...)
	l.lines++
	l.senders = append(l.senders, sender)
}

// Publish hands what was said to the stream as one turn, unless a turn is under way: then
// Take does it.
func (l *Log) Publish() {
	if l.underWay != nil || l.lines == 0 {
		return
	}
	l.turns++
	now := time.Now()
	l.underWay = &turn{id: turnID{l.publisher, l.turns}, data: encodeTurn(l.gathered, now), senders: l.senders, begun: now}
	l.gathered, l.lines, l.senders = l.gathered[:0], 0, nil
	l.stream.unackedTurns.Add(1)
	t := l.underWay
	l.stream.running.Go(func() { l.publish(t) })
}

// publish publishes a turn, again and again until the stream has it or the log is closed.
func (l *Log) publish(t *turn) {
	s := l.stream
	defer s.unackedTurns.Add(-1)
	for {
		for !s.engine.IsConnected() {
			if !sleep(l.ctx, retryDelay) {
				return
			}
		}
		seq, err := s.store(l.ctx, l.subject, t)
		now := time.Now()
		if err == nil {
			s.answered.setNow(s.begun)
			s.stored.setNow(s.begun)
			s.isStuck.Store(false)
			s.monitor.Published(now.Sub(t.begun))
			l.mu.Lock()
			l.acked = seq
			l.mu.Unlock()
			l.signal()
			return
		}
		if l.ctx.Err() == nil {
			s.logLimited("nats publish", "nats: %s: a turn is said again: %v", l.subject, err)
		}
		if isCode(err, codeTooLarge) {
			t.isTooLarge.Store(true) // others are stored
		} else {
			s.noteStuck(t, err)
		}
		if !sleep(l.ctx, retryDelay) {
			return
		}
		s.monitor.Repeated()
	}
}

// errOverdue says that a turn has no answer yet.
var errOverdue = errors.New("no answer")

// noteStuck marks the stream as one that stores nothing, if neither this turn nor another was
// stored for awayAfter. It logs that, and signals every Log, once.
func (s *Stream) noteStuck(t *turn, err error) {
	if time.Since(later(t.begun, s.stored.time(s.begun))) >= awayAfter && !s.isStuck.Swap(true) {
		s.monitor.Logf("nats away", "nats: the stream %s stores nothing: %v", streamName, err)
		s.everyLog((*Log).signal)
	}
}

// Take returns what changed since the last Take. It publishes what was said since as the next
// turn, unless one is under way.
func (l *Log) Take() Update {
	cursor := l.stream.cursor.Load() // before the queue: what is up to here is in it
	l.mu.Lock()
	snapshot, lost, acked := l.snapshot, l.lost, l.acked
	l.snapshot, l.lost = nil, nil
	if lost != nil {
		l.isOpen = false
	}
	var queue []*Message // it stays until the room is opened
	if l.isOpen || snapshot != nil {
		queue, l.queue = l.queue, nil
	}
	l.mu.Unlock()

	var t Update
	if lost != nil && acked > 0 {
		l.finish() // it is in what is read again, or in another stream
	}
	if snapshot != nil {
		l.isOpen, l.window, l.position = true, snapshot.window, snapshot.last
		t.Snapshot = &Snapshot{snapshot.kept.messages, snapshot.kept.goneID}
	}
	for _, m := range queue {
		t.Lines = l.appendStored(m, t.Lines)
	}
	if l.isOpen {
		l.position = max(l.position, cursor)
		if acked > 0 && acked <= l.position {
			l.finish()
		}
	}
	t.Lost = l.stream.outage()
	if u := l.underWay; u != nil && !u.overdue && time.Since(u.begun) >= awayAfter {
		u.overdue = true
		t.Lost = &OutOfReach
		if acked == 0 && !u.isTooLarge.Load() {
			l.stream.noteStuck(u, errOverdue) // newcomers are refused from the same moment on
		}
	}
	if lost != nil {
		t.Lost = lost
	}
	l.Publish()
	return t
}

// finish notes that the turn under way is through.
func (l *Log) finish() {
	l.underWay = nil
	l.mu.Lock()
	l.acked = 0
	l.mu.Unlock()
}

// appendStored appends the lines of a turn that came, unless they were taken before.
func (l *Log) appendStored(m *Message, lines []StoredLine) []StoredLine {
	seq := sequence(m)
	if seq <= l.position {
		return lines
	}
	l.position = seq
	id, messages := l.stream.decode(m, seq)
	if len(messages) == 0 || !l.window.begin(id) {
		return lines
	}
	var senders []any
	if l.underWay != nil && id == l.underWay.id {
		senders = l.underWay.senders
	}
	for _, message := range messages {
		h := StoredLine{Message: message}
		if place := int(message.ID % idsPerTurn); place < len(senders) {
			h.Sender = senders[place]
		}
		h.Repeat = l.window.add(&h.Message)
		lines = append(lines, h)
	}
	return lines
}

// decode reads a turn. It counts and logs what cannot be read.
func (s *Stream) decode(m *Message, seq uint64) (turnID, []protocol.Message) {
	id, ok := parseTurnID(m.header("Nats-Msg-Id"))
	messages, skipped, err := decodeTurn(m.Data, seq)
	switch {
	case !ok || err != nil:
		s.monitor.Unreadable(1)
		s.monitor.Logf("nats unreadable", "nats: message %d of the stream is %v", seq, errUnreadable)
		return id, nil
	case skipped > 0:
		s.monitor.Unreadable(skipped)
		s.monitor.Logf("nats unreadable", "nats: message %d of the stream has %d lines that no client can have said", seq, skipped)
	}
	return id, messages
}

// IsLost reports whether the message with an id is one that the stream is known to have lost.
// Another message may have the id now, so nobody knows what a client has that received either.
func (l *Log) IsLost(id int64) bool {
	lost, seq := l.stream.lost.Load(), uint64(id)/idsPerTurn
	return lost != nil && id >= 0 && lost.from <= seq && seq <= lost.to
}

// EndID returns an id between those of what was taken and those of what will be taken.
func (l *Log) EndID() int64 { return endID(l.position) }

// An Arrival says when a client came.
type Arrival int64

// Arrival returns that of a client that comes now.
func (l *Log) Arrival() Arrival { return Arrival(l.stream.looks.now()) }

// Admits reports whether the log can tell a client now what it missed after an id, 0 for none.
// It can when the room is read, and everything up to the id was taken, or the last looks since
// the client's arrival show that the stream ends below the id. It cannot while an overdue turn is
// under way. If it reports false, it may report true after Ready receives, or a second later.
func (l *Log) Admits(id int64, a Arrival) bool {
	l.refresh()
	seq := uint64(id) / idsPerTurn
	switch {
	case !l.isOpen, l.underWay != nil && l.underWay.overdue:
		return false
	case seq <= l.position, l.stream.looks.endsBelow(seq, int64(a)):
		return true
	}
	l.stream.want(l, seq)
	return false
}

// refresh moves the position to the cursor, if nothing is there to take.
func (l *Log) refresh() {
	cursor := l.stream.cursor.Load() // before the queue: what is up to here is in it
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isOpen && len(l.queue) == 0 && l.snapshot == nil && l.lost == nil {
		l.position = max(l.position, cursor)
	}
}

// RemotePresence returns who is in the room on other servers, if that has changed since the last
// call.
func (l *Log) RemotePresence() (rosters []presence.Roster, changed bool) {
	version := l.stream.remote.version.Load()
	if version == l.presenceVersion {
		return nil, false
	}
	l.presenceVersion = version
	return l.stream.remote.in(l.room), true
}

// SetPresence tells the other servers who is in the room on this one.
func (l *Log) SetPresence(c presence.Roster) {
	l.announced = true
	l.stream.local.set(l.room, c)
}

// sequence returns the sequence number of a message that the stream stored, 0 for others.
func sequence(m *Message) uint64 {
	if m.header("Nats-Stream") != streamName {
		return 0
	}
	seq, err := strconv.ParseUint(m.header("Nats-Sequence"), 10, 64)
	if err != nil || seq > protocol.MaxID/idsPerTurn-1 {
		return 0
	}
	return seq
}
