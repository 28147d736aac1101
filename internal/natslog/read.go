package natslog

import (
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"chat/internal/protocol"
)

// nothingWanted is the sequence number that a Log wants to be told of if there is none.
const nothingWanted = math.MaxUint64

const (
	// quietTime is how long nothing may come before the stream is asked whether it has more.
	quietTime = time.Second

	// maxErrors is how many consecutive errors make this server connect anew, to another node
	// if there is one.
	maxErrors = 3
)

// arrive takes a message that the stream stored and published. If there are too many, those
// that are left out are fetched.
func (s *Stream) arrive(m *Message) {
	select {
	case s.arrived <- m:
	default:
	}
}

// read reads the stream: what arrives, if it is the next in order, and else what is fetched.
// The cursor alone decides what is next.
func (s *Stream) read() {
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	errors := 0
	note := func(succeeded bool) {
		if succeeded {
			errors = 0
		} else if errors++; errors == maxErrors {
			errors = 0
			s.engine.Reconnect()
		}
	}
	for {
		select {
		case <-s.ctx.Done():
			return
		case m := <-s.arrived:
			select {
			case <-s.wakeup: // first what a connection that was lost did not bring
				note(s.catchUp(0))
			default:
			}
			seq := sequence(m)
			switch cursor := s.cursor.Load(); {
			case seq == cursor+1:
				s.dispatch(m, seq)
			case seq > cursor:
				s.monitor.Gap()
				note(s.catchUp(seq))
			case s.recent.hasOther(m, seq):
				note(s.rewind(seq))
			}
		case <-quiet.C:
			note(s.catchUp(0))
		case <-s.wakeup:
			note(s.catchUp(0))
		case do := <-s.readerTasks:
			do()
		}
		quiet.Reset(quietTime)
	}
}

// dispatch hands a turn to its room, and moves the cursor there.
func (s *Stream) dispatch(m *Message, seq uint64) {
	subject := m.header("Nats-Subject")
	s.mu.Lock()
	for l := range s.logs[subject] {
		l.mu.Lock()
		l.queue = append(l.queue, m)
		l.mu.Unlock()
		l.signal()
	}
	s.mu.Unlock()
	s.answered.setNow(s.begun)
	s.recent.add(m, seq)
	s.cursor.Store(seq)
	if seq >= s.wanted.Load() {
		s.tellWanted()
	}
}

// catchUp fetches what is after the cursor, up to a sequence number that is known to be
// there, 0 for none, and to the end of what a node has. It reports false if that fails. The
// turn at the cursor comes, too: if it is another one now, so may be those before it.
func (s *Stream) catchUp(until uint64) bool {
	compared := uint64(0)
	for attempts := 0; ; attempts++ {
		fetched, isBehind, isOther := 0, false, false
		begin := s.cursor.Load()
		from := begin + 1
		if begin != compared && s.recent.has(begin) {
			from = begin
		}
		end, err := s.fetch(s.ctx, publishPrefix+">", from, func(m *Message, seq uint64) {
			if seq == begin {
				compared, isOther = seq, s.recent.hasOther(m, seq)
				return
			}
			if isBehind = isBehind || seq > s.cursor.Load()+1; isOther || isBehind {
				return
			}
			fetched++
			s.dispatch(m, seq)
		})
		if fetched > 0 {
			s.monitor.Fetched(fetched)
			attempts = 0
		}
		switch {
		case s.ctx.Err() != nil:
			return true
		case isOther:
			return s.rewind(begin)
		case isBehind:
			return s.jump()
		case err != nil:
			s.logLimited("nats fetch", "nats: the stream cannot be read: %v", err)
			return false
		case end && s.cursor.Load() >= until:
			return true
		case end && attempts >= 20: // the node lags
			return false
		case end:
			s.sleep(retryDelay / 2)
		}
	}
}

// want makes Ready of a Log receive once the cursor is at a sequence number.
func (s *Stream) want(l *Log, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.mu.Lock()
	l.wanted = min(l.wanted, seq)
	l.mu.Unlock()
	if seq < s.wanted.Load() {
		s.wanted.Store(seq)
	}
	if s.cursor.Load() >= seq { // since the caller looked
		l.signal()
	}
}

// tellWanted tells the Logs that wait for the cursor.
func (s *Stream) tellWanted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	cursor, least := s.cursor.Load(), uint64(nothingWanted)
	for _, logs := range s.logs {
		for l := range logs {
			l.mu.Lock()
			if l.wanted <= cursor {
				l.wanted = nothingWanted
				l.signal()
			}
			least = min(least, l.wanted)
			l.mu.Unlock()
		}
	}
	s.wanted.Store(least)
}

// restart begins anew at the end of the stream. Clients are disconnected for a reason.
func (s *Stream) restart(info *nats.StreamInfo, reason *protocol.Disconnect) {
	s.recent = recentTurns{}
	s.created.Store(info.Created.UnixNano())
	s.cursor.Store(info.State.LastSeq)
	s.everyLog(func(l *Log) { l.lose(reason) })
}

// jump begins anew when the stream no longer has what is after the cursor: the server was away
// while more was said in a room than is kept. It reports false if that fails.
func (s *Stream) jump() bool {
	info, err := s.info()
	if err == nil && info.State.LastSeq < s.cursor.Load() {
		err = errBehind
	}
	switch {
	case err != nil:
		s.logLimited("nats fetch", "nats: the stream cannot be read: %v", err)
		return false
	case info.Created.UnixNano() == s.created.Load():
		s.monitor.Logf("nats behind", "nats: the stream %s no longer has all that was said while this server was away", streamName)
		s.restart(info, &OutOfReach)
	}
	return true // or the stream was made anew, which watch sees within a second
}

// rewind begins anew when the stream has lost its end and has grown again: the leader has
// another turn under a sequence number than was read under it. It waits until the leader answers,
// and reports false if that is not so.
func (s *Stream) rewind(seq uint64) bool {
	for {
		first, err := s.firstOther(seq)
		var info *nats.StreamInfo
		if err == nil {
			info, err = s.info()
		}
		switch {
		case err != nil:
			s.logLimited("nats fetch", "nats: the stream cannot be read: %v", err)
			if !s.sleep(retryDelay) {
				return true
			}
		case first > seq:
			return false
		case info.Created.UnixNano() != s.created.Load():
			return true // it was made anew, which watch sees within a second
		default:
			s.monitor.Logf("nats stream", "nats: the stream %s has lost turns: %d is not what was read", streamName, first)
			s.noteLost(first)
			s.restart(info, &Replaced)
			return true
		}
	}
}

// firstOther returns the first sequence number, up to seq, under which the leader has another
// turn than was read, and seq+1 if there is none. Those before the recent turns do not count.
func (s *Stream) firstOther(seq uint64) (uint64, error) {
	low, high := seq-min(seq, uint64(len(s.recent))-1), seq+1
	for probe := seq; low < high; probe = low + (high-low)/2 {
		m, err := s.at(probe)
		if err != nil {
			return 0, err
		}
		if m != nil && s.recent.hasOther(m, probe) {
			high = probe
		} else {
			low = probe + 1
		}
	}
	return high, nil
}

// A lostSpan says which turns the stream has lost: those from one sequence number to another.
type lostSpan struct{ from, to uint64 }

// noteLost notes that the stream has lost the turns that were read, from a sequence number on,
// and may give their numbers to others.
func (s *Stream) noteLost(from uint64) {
	lost := lostSpan{from, s.cursor.Load()}
	if lost.from > lost.to {
		return
	}
	if before := s.lost.Load(); before != nil {
		lost = lostSpan{min(before.from, lost.from), max(before.to, lost.to)}
	}
	s.lost.Store(&lost)
}

// recentTurns are the ids of the last turns that were read, by the remainder of their sequence
// numbers. They are as many as may wait in arrived: a turn that comes late is among them.
type recentTurns [maxArrived]struct {
	seq uint64
	id  string
}

// add adds a turn.
func (r *recentTurns) add(m *Message, seq uint64) {
	turn := &r[seq%uint64(len(r))]
	turn.seq, turn.id = seq, m.header("Nats-Msg-Id")
}

// has reports whether the id of the turn with a sequence number is known.
func (r *recentTurns) has(seq uint64) bool {
	turn := r[seq%uint64(len(r))]
	return turn.seq == seq && turn.id != ""
}

// hasOther reports whether another turn was read under the sequence number. It reports false if
// that is not known.
func (r *recentTurns) hasOther(m *Message, seq uint64) bool {
	turn := r[seq%uint64(len(r))]
	return seq > 0 && turn.seq == seq && turn.id != m.header("Nats-Msg-Id")
}

// skip moves the cursor over turns that were deleted, unless it has moved.
func (s *Stream) skip(from, to uint64) {
	if s.cursor.CompareAndSwap(from, to) {
		s.tellWanted()
	}
}

// everyLog calls a function for each Log.
func (s *Stream) everyLog(do func(*Log)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, logs := range s.logs {
		for l := range logs {
			do(l)
		}
	}
}

// begin returns the number of a look that begins.
func (ls *looks) begin() int64 {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.begun++
	return ls.begun
}

// now returns the number of the last look that began.
func (ls *looks) now() int64 {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.begun
}

// note notes what a look showed.
func (ls *looks) note(number int64, info *nats.StreamInfo) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	copy(ls.numbers[:], ls.numbers[1:])
	copy(ls.ends[:], ls.ends[1:])
	ls.numbers[looksBefore-1], ls.ends[looksBefore-1] = number, info.State.LastSeq
}

// endsBelow reports whether the last looks, all of them begun after one with this number,
// showed that the stream ends below a sequence number.
func (ls *looks) endsBelow(seq uint64, since int64) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for i, end := range ls.ends {
		if ls.numbers[i] <= since || end >= seq {
			return false
		}
	}
	return true
}

// A watcher finds out what has become of the stream.
type watcher struct {
	answered  time.Time // when something last came from the stream
	backwards int       // consecutive looks that showed the stream's end below the cursor
	missing   int       // consecutive looks that found no stream
	failures  int       // consecutive looks that failed
	cursor    uint64    // at the last look
	moved     time.Time // when the cursor had moved, or was at the end
	gone      int       // consecutive looks that showed nothing between the cursor and the end
	isAnew    bool      // the stream was made anew, and may lack the secret
}

// watch looks at the stream once a lookInterval.
func (s *Stream) watch() {
	now := time.Now()
	w := watcher{answered: now, moved: now}
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.look(&w)
		case <-s.ctx.Done():
			return
		}
	}
}

// look looks at the stream once.
func (s *Stream) look(w *watcher) {
	if s.unackedTurns.Load() == 0 {
		s.isStuck.Store(false) // or nobody would find out that it no longer is
	}
	number := s.looks.begin()
	cursor := s.cursor.Load() // the end can only be above that
	info, err := s.info()
	if isCode(err, codeNoStream) {
		if w.missing++; w.missing >= 2 {
			s.monitor.Logf("nats stream", "nats: the stream %s is gone", streamName)
			info, err = s.create()
		}
	} else {
		w.missing = 0
	}
	now := time.Now()
	if err != nil {
		w.moved = now // nothing can have come
		if w.failures++; w.failures%maxErrors == 0 && s.engine.IsConnected() {
			s.engine.Reconnect() // the node may be cut off from the others
		}
		w.answered = later(w.answered, s.answered.time(s.begun))
		if now.Sub(w.answered) >= awayAfter && !s.isAway.Swap(true) {
			s.monitor.Logf("nats away", "nats: the stream %s is out of reach: %v", streamName, err)
			s.everyLog((*Log).signal)
		}
		return
	}
	w.answered, w.failures = now, 0
	if s.isAway.Swap(false) {
		s.monitor.Logf("nats away", "nats: the stream %s is within reach again", streamName)
	}
	s.looks.note(number, info)
	if w.isAnew && s.keepSecret() {
		w.isAnew = false
	}
	end := info.State.LastSeq
	lostFrom := end + 1
	if end < cursor {
		w.backwards++
	} else {
		w.backwards = 0
	}
	switch {
	case info.Created.UnixNano() != s.created.Load():
		s.monitor.Logf("nats stream", "nats: the stream %s was made anew", streamName)
		w.isAnew = true
		lostFrom = info.State.FirstSeq
	case w.backwards >= looksBefore:
		s.monitor.Logf("nats stream", "nats: the stream %s has lost turns: it ends at %d, and %d was read", streamName, end, cursor)
	default:
		s.checkStalled(w, end, now)
		return
	}
	w.backwards, w.moved = 0, now
	s.order(func() {
		s.noteLost(lostFrom)
		s.restart(info, &Replaced)
	})
}

// order runs a function on the goroutine of read. It does nothing after Close.
func (s *Stream) order(do func()) {
	select {
	case s.readerTasks <- do:
	case <-s.ctx.Done():
	}
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// checkStalled connects anew, to another node if there is one, when the cursor has stood below
// the stream's end for silentAfter. If the leader has nothing between the two, the cursor is moved
// to the end instead.
func (s *Stream) checkStalled(w *watcher, end uint64, now time.Time) {
	cursor := s.cursor.Load()
	if cursor != w.cursor || end <= cursor {
		w.cursor, w.moved, w.gone = cursor, now, 0
		return
	}
	if now.Sub(w.moved) < silentAfter {
		return
	}
	if m, _, err := s.next(publishPrefix+">", cursor+1); err == nil && m == nil {
		if w.gone++; w.gone >= looksBefore { // else it may be a new leader that lacks the last ones
			s.order(func() { s.skip(cursor, end) })
		}
		return
	}
	w.moved, w.gone = now, 0
	s.monitor.Logf("nats silent", "nats: the stream %s has more than is heard of it", streamName)
	s.engine.Reconnect()
}
