package natslog

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"chat/internal/protocol"
)

const (
	// windowTurns is how many of a room's last turns are searched for a line that is said
	// again. It is under maxRoomTurns, so that everyone who reads the room computes the same,
	// whenever reading began.
	windowTurns = 2000

	// windowLines is how many lines with a client message id are searched, at most.
	windowLines = 10_000
)

// A window knows the lines of a room's last turns, so that it finds those that are said
// again. What it finds depends on these turns alone: all who read the room find the same.
type window struct {
	turns      uint64 // so far
	first      map[key]firstSeen
	keys       []keyAt // of the lines, oldest first
	publishers map[string]publisherAt
}

// A key stands for the user and the client message id of a line.
type key [16]byte

// A firstSeen is what is known of a line that a key stands for.
type firstSeen struct {
	id   int64 // of the first such line
	time time.Time
	last uint64 // the turn in which there was one last
}

// A keyAt is a key and the turn in which it was.
type keyAt struct {
	key  key
	turn uint64
}

// A publisherAt is the number of a publisher's last turn, and which turn of the room that was.
type publisherAt struct{ n, turn uint64 }

// newWindow returns the window of a room in which nothing was said.
func newWindow() *window {
	return &window{first: make(map[key]firstSeen), publishers: make(map[string]publisherAt)}
}

// begin notes that a turn begins. It reports false if the turn was there before: its publisher
// repeats it when it does not know that it arrived.
func (w *window) begin(id turnID) bool {
	w.turns++
	if w.turns%windowTurns == 0 {
		for publisher, at := range w.publishers {
			if at.turn+windowTurns < w.turns {
				delete(w.publishers, publisher)
			}
		}
	}
	if at, ok := w.publishers[id.publisher]; ok && id.n <= at.n && at.turn+windowTurns > w.turns {
		return false
	}
	w.publishers[id.publisher] = publisherAt{id.n, w.turns}
	w.expire()
	return true
}

// add notes a line of the turn. If it was said before, it reports true, and gives the
// message the id and the time that it had first.
func (w *window) add(m *protocol.Message) (repeat bool) {
	if m.ClientMsgID == "" {
		return false
	}
	k := keyOf(m.UserID, m.ClientMsgID)
	first, repeat := w.first[k]
	if repeat {
		m.ID, m.Time = first.id, first.time
	}
	w.first[k] = firstSeen{m.ID, m.Time, w.turns}
	w.keys = append(w.keys, keyAt{k, w.turns})
	w.expire()
	return repeat
}

// expire forgets lines that are too old.
func (w *window) expire() {
	old := 0
	for old < len(w.keys) && (w.keys[old].turn+windowTurns <= w.turns || len(w.keys)-old > windowLines) {
		k := w.keys[old]
		old++
		if w.first[k.key].last != k.turn {
			continue // there is a later one
		}
		delete(w.first, k.key)
	}
	w.keys = w.keys[old:]
}

// keyOf returns a hash of both, so that no client can produce the key of another user.
func keyOf(userID, clientMsgID string) (k key) {
	b := binary.AppendUvarint(nil, uint64(len(userID)))
	b = append(append(b, userID...), clientMsgID...)
	sum := sha256.Sum256(b)
	return key(sum[:len(k)])
}
