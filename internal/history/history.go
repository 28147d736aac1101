// Package history keeps the last messages of a room: it gives each message its id,
// finds the one that a client sends again, and tells a client that comes back what it
// has missed.
package history

import (
	"math"
	"slices"
	"sort"
	"strconv"
	"time"

	"chat/internal/protocol"
)

const (
	// MaxMessages is how many messages a history keeps, at most.
	MaxMessages = 500

	// MaxBytes is the length of all kept messages as ChatV1 spells them, at most.
	MaxBytes = 128 * 1024

	// newcomerMessages is how many of them a client gets that gives no position.
	newcomerMessages = 50
)

// A History is what was said last in a room. One goroutine may use it at a time; what
// its methods return is never changed after that, and any goroutine may read it.
type History struct {
	entries      []*Entry             // oldest first; entries are only ever added behind its end
	bytes        int                  // of all their payloads
	evicted      int                  // bytes of the payloads before entries, which its array still refers to
	byKey        map[dedupeKey]*Entry // those whose sender gave an id
	lastID       int64                // of the last message; before the first, an id below all that will be given
	goneID       int64                // nothing that was said after this id is missing in entries
	lastGone     *Entry               // the last message that is no longer kept; nil if it is not known
	firstUserID  string               // of the first message
	severalSpoke bool                 // another user said something
}

// An Entry is a kept message.
type Entry struct {
	ID      int64
	Payload []byte // the message as ChatV1 spells it, shorter than protocol.MaxFrame
	key     dedupeKey
}

// A dedupeKey is the idempotency key of a message: its sender's id for it.
type dedupeKey struct{ userID, clientMsgID string }

// New returns an empty history that begins now. Its ids are larger than after, an id
// that the room may have given before; so a client that knows an earlier history of the
// room is told that it may have missed something.
func New(now time.Time, after int64) *History {
	start := max(after+1, now.UnixMicro())
	return &History{byKey: make(map[dedupeKey]*Entry), lastID: start, goneID: start}
}

// NewAfter returns an empty history, whose messages have ids of their own: see Keep. Nothing was
// said after goneID that it will not be given.
func NewAfter(goneID int64) *History {
	return &History{byKey: make(map[dedupeKey]*Entry), lastID: goneID, goneID: goneID}
}

// Restore returns a history that continues messages, which were kept elsewhere: at least
// one, oldest first, with increasing ids. There may have been any before them.
func Restore(messages []protocol.Message) *History {
	h := &History{byKey: make(map[dedupeKey]*Entry), goneID: messages[0].ID - 1}
	for _, m := range messages {
		h.Keep(m)
	}
	return h
}

// LastGone returns the last message that was kept and is no longer; nil if there is none.
func (h *History) LastGone() *Entry { return h.lastGone }

// Kept returns the kept messages, oldest first, and an id after which none is missing in them.
func (h *History) Kept() (entries []*Entry, goneID int64) {
	return h.entries[:len(h.entries):len(h.entries)], h.goneID
}

// Before returns those of some messages, oldest first, that have smaller ids than before:
// the last ones, at most so many.
func Before(entries []*Entry, before int64, most int) []*Entry {
	end := sort.Search(len(entries), func(i int) bool { return entries[i].ID >= before })
	return entries[max(0, end-most):end]
}

// LastID returns the id of the last message; before the first, a number that is larger
// than all earlier ids and smaller than all later ones.
func (h *History) LastID() int64 { return h.lastID }

// SeveralSpoke reports whether more than one user said something since the history was made,
// kept or not.
func (h *History) SeveralSpoke() bool { return h.severalSpoke }

// Find returns the kept message that a user sent under an id of its own, nil if there is
// none.
func (h *History) Find(userID, clientMsgID string) *Entry {
	return h.byKey[dedupeKey{userID, clientMsgID}]
}

// Add keeps a message that was said now, and returns it. Its id is the microseconds since
// 1970, so that ids increase over a restart, too, or the last id plus one if that is
// larger. The oldest messages go when there are too many.
func (h *History) Add(m protocol.Message, now time.Time) *Entry {
	m.ID, m.Time = max(h.lastID+1, now.UnixMicro()), now
	return h.Keep(m)
}

// Keep keeps a message that has an id, larger than those before, and returns it.
func (h *History) Keep(m protocol.Message) *Entry {
	h.lastID = m.ID
	e := &Entry{m.ID, m.Encode(), dedupeKey{m.UserID, m.ClientMsgID}}
	if h.firstUserID == "" {
		h.firstUserID = m.UserID
	}
	h.severalSpoke = h.severalSpoke || m.UserID != h.firstUserID
	h.entries = append(h.entries, e)
	h.bytes += len(e.Payload)
	if m.ClientMsgID != "" {
		h.byKey[e.key] = e
	}
	for len(h.entries) > MaxMessages || h.bytes > MaxBytes {
		first := h.entries[0]
		h.entries = h.entries[1:]
		h.bytes -= len(first.Payload)
		h.evicted += len(first.Payload)
		h.goneID, h.lastGone = first.ID, first
		if first.key.clientMsgID != "" {
			delete(h.byKey, first.key)
		}
	}
	if h.evicted > MaxBytes/4 {
		h.entries, h.evicted = slices.Clone(h.entries), 0
	}
	return e
}

// Since returns the kept messages after a position, oldest first, and whether others after it may
// be missing. For NoPosition they are the last newcomerMessages, and so they are for a position
// above LastID, which this history has not given: then others may be missing.
func (h *History) Since(p Position) (entries []*Entry, missed bool) {
	first := max(0, len(h.entries)-newcomerMessages)
	switch {
	case p == NoPosition:
	case p > Position(h.lastID):
		missed = true
	default:
		missed = int64(p) < h.goneID
		first = sort.Search(len(h.entries), func(i int) bool { return h.entries[i].ID > int64(p) })
	}
	return h.entries[first:len(h.entries):len(h.entries)], missed
}

// A Position is the id of the last message that a client has received: what it resumes
// after.
type Position int64

const (
	// NoPosition is that of a client that has received nothing.
	NoPosition Position = -1

	// UnknownPosition is that of a client that has received something, but not here.
	UnknownPosition Position = math.MaxInt64
)

// ParsePosition reads the position that a client gives, "" for none. One that cannot be
// read is UnknownPosition.
func ParsePosition(after string) Position {
	if after == "" {
		return NoPosition
	}
	id, err := strconv.ParseInt(after, 10, 64)
	if err != nil || id < 0 {
		return UnknownPosition
	}
	return Position(id)
}
