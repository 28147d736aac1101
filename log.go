package main

import (
	"time"

	"chat/internal/filelog"
	"chat/internal/history"
	"chat/internal/natslog"
	"chat/internal/presence"
	"chat/internal/protocol"
)

// A roomLog puts the messages of one room into order and keeps the last of them. The hub
// delivers only what take returns. In memory and in a file, take returns all that was said
// before it; over NATS a later take does, with the messages of other servers.
//
// The hub's goroutine alone calls the methods.
type roomLog interface {
	// open begins the log. It is called once, first.
	open()

	// isFull reports whether senders must wait: then say is not called.
	isFull() bool

	// say adds a message, which take is to return.
	say(m message)

	// ready returns a channel that receives when take may return something that was not just
	// said; nil if it never does.
	ready() <-chan struct{}

	// take returns the messages that are in order since the last take, and why all clients
	// must be disconnected before they are delivered, or nil. The slice is valid until the
	// next take.
	take() (taken []committed, lost *protocol.Disconnect)

	// pending returns how many messages were said and not returned by take.
	pending() int

	// admits reports whether the log can tell now what a client missed. If not, it is to be
	// asked again after each take.
	admits(c *Client) bool

	// since returns the messages that a client gets that resumes after a position, whether
	// it may have missed others, and the position from which it may resume next.
	since(p history.Position) (entries []*history.Entry, missed bool, lastID int64)

	// kept returns the messages that are kept, oldest first; nil if there are none, or they
	// are not read yet.
	kept() []*history.Entry

	// last returns the id of the last message, 0 if there is none, or 1 if that is not known
	// yet; and whether more than one user said something.
	last() (id int64, severalSpoke bool)

	// tick does what is due. It is called once a tickPeriod.
	tick(now time.Time, ms *presence.Members)

	// clear forgets the messages that are in memory alone.
	clear()

	// close ends the log. It is called once, last.
	close()
}

// A committed is a message that has its place in the log.
type committed struct {
	entry    *history.Entry
	name     string // as its sender gave it
	text     string
	isRepeat bool    // it was said before, and is said again
	repeatTo *Client // who says it again; nil if that is no client of this server
}

// A localLog is a room's log in memory, and in a file if there is one.
type localLog struct {
	history *history.History
	file    *filelog.Log // has what the history keeps; nil without -history
	said    []message    // since the last take
	taken   []committed  // by the last take
}

func (l *localLog) open() { l.history = l.file.Open(l.history) }

func (l *localLog) isFull() bool { return false }

func (l *localLog) say(m message) { l.said = append(l.said, m) }

func (l *localLog) ready() <-chan struct{} { return nil }

// take gives each message its id, and commits it to the room's file: nobody receives what a
// restart would lose. If the disk fails or does not answer in time, the room goes on in memory,
// and a later Commit tries again. A message that is still in history under its sender's own id
// for it becomes a repeat.
func (l *localLog) take() ([]committed, *protocol.Disconnect) {
	clear(l.taken)
	l.taken = l.taken[:0]
	if len(l.said) == 0 {
		return nil, nil
	}
	now := time.Now()
	uncommitted := 0 // bytes
	for _, m := range l.said {
		if e := l.history.Find(m.sender.userID, m.ClientMsgID); e != nil {
			l.taken = append(l.taken, committed{entry: e, repeatTo: m.sender, isRepeat: true})
			continue
		}
		msg := protocol.Message{UserID: m.sender.userID, Name: m.sender.name, Text: m.Text, ClientMsgID: m.ClientMsgID}
		e := l.history.Add(msg, now)
		l.taken = append(l.taken, committed{entry: e, name: msg.Name, text: msg.Text})
		if uncommitted += len(e.Payload); uncommitted > protocol.MaxFrame { // long before the history evicts it
			l.file.Commit(l.history)
			uncommitted = 0
		}
	}
	l.file.Commit(l.history)
	clear(l.said)
	l.said = l.said[:0]
	return l.taken, nil
}

func (l *localLog) pending() int { return len(l.said) }

func (l *localLog) admits(*Client) bool { return true }

func (l *localLog) since(p history.Position) (entries []*history.Entry, missed bool, lastID int64) {
	entries, missed = l.history.Since(p)
	return entries, missed, l.history.LastID()
}

func (l *localLog) kept() []*history.Entry { return keptOf(l.history) }

// keptOf returns what a history keeps.
func keptOf(h *history.History) []*history.Entry {
	kept, _ := h.Kept()
	return kept
}

func (l *localLog) last() (id int64, severalSpoke bool) { return lastOf(l.history) }

// lastOf returns the id of a history's last message, 0 if it keeps none, and whether more than
// one user said something.
func lastOf(h *history.History) (id int64, severalSpoke bool) {
	if len(keptOf(h)) > 0 {
		id = h.LastID()
	}
	return id, h.SeveralSpoke()
}

func (l *localLog) tick(now time.Time, _ *presence.Members) {
	if l.file.Expired(l.history, now) {
		l.history = history.New(now, l.history.LastID())
	}
	l.file.Commit(l.history) // tries again what failed; deletes the file of a room that expired
}

func (l *localLog) clear() {
	if l.file == nil { // a file keeps it until it expires
		l.history = history.New(time.Now(), l.history.LastID())
	}
}

func (l *localLog) close() { l.file.Close(l.history) }

// A sharedLog is a room's log that other servers share, over NATS.
type sharedLog struct {
	stream  *natslog.Stream
	room    string
	log     *natslog.Log // nil before open
	history *history.History
	taken   []committed // by the last take
	isRead  bool        // the room was read from the stream
}

func newSharedLog(stream *natslog.Stream, room string) *sharedLog {
	return &sharedLog{stream: stream, room: room, history: history.NewAfter(0)}
}

func (l *sharedLog) open() { l.log = l.stream.Log(l.room) }

func (l *sharedLog) isFull() bool { return l.log.IsFull() }

func (l *sharedLog) say(m message) {
	l.log.Say(natslog.Line{UserID: m.sender.userID, Name: m.sender.name, Text: m.Text, ClientMsgID: m.ClientMsgID}, m.sender)
}

func (l *sharedLog) ready() <-chan struct{} { return l.log.Ready() }

func (l *sharedLog) take() ([]committed, *protocol.Disconnect) {
	clear(l.taken)
	l.taken = l.taken[:0]
	t := l.log.Take()
	if t.Snapshot != nil {
		l.history, l.isRead = historyOf(t.Snapshot), true
	}
	for _, h := range t.Lines {
		c := committed{name: h.Name, text: h.Text, isRepeat: h.Repeat}
		if h.Repeat {
			c.repeatTo, _ = h.Sender.(*Client)
			c.entry = &history.Entry{ID: h.ID, Payload: h.Encode()}
		} else {
			c.entry = l.history.Keep(h.Message)
		}
		l.taken = append(l.taken, c)
	}
	return l.taken, t.Lost
}

// historyOf returns the history of a room that was read from the stream.
func historyOf(snapshot *natslog.Snapshot) *history.History {
	h := history.NewAfter(snapshot.GoneID)
	for _, m := range snapshot.Messages {
		h.Keep(m)
	}
	return h
}

func (l *sharedLog) pending() int { return l.log.Pending() }

func (l *sharedLog) admits(c *Client) bool {
	if c.arrival == 0 {
		c.arrival = l.log.Arrival()
	}
	id := int64(0)
	if c.protocol == protocol.ChatV1 && c.resumeAfter != history.NoPosition && c.resumeAfter != history.UnknownPosition {
		id = int64(c.resumeAfter)
	}
	return l.log.Admits(id, c.arrival)
}

// since takes a position between the room's last message and the end of what was read of the
// stream for that message: nothing of this room lies between. A client has such a position from
// another room, or from the hello of a room that kept nothing. The position of a message that the
// stream has lost is unknown.
func (l *sharedLog) since(p history.Position) (entries []*history.Entry, missed bool, lastID int64) {
	lastID = l.history.LastID()
	if l.log.IsLost(int64(p)) {
		p = history.UnknownPosition
	}
	if p <= history.Position(l.log.EndID()) {
		p = min(p, history.Position(lastID))
	}
	entries, missed = l.history.Since(p)
	if len(l.kept()) == 0 {
		lastID = l.log.EndID()
	}
	return entries, missed, lastID
}

func (l *sharedLog) kept() []*history.Entry { return keptOf(l.history) }

func (l *sharedLog) last() (id int64, severalSpoke bool) {
	if !l.isRead {
		return 1, false
	}
	return lastOf(l.history)
}

func (l *sharedLog) tick(_ time.Time, ms *presence.Members) {
	if roster, changed := ms.Local(); changed {
		l.log.SetPresence(roster)
	}
	if rosters, changed := l.log.RemotePresence(); changed {
		ms.SetRemote(rosters)
	}
}

func (l *sharedLog) clear() {} // the stream keeps it

func (l *sharedLog) close() { l.log.Close() }
