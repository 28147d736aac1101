package filelog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"chat/internal/history"
)

const (
	// maxFile is the length in bytes above which a file is rewritten to what is kept.
	maxFile = 1 << 20

	// syncDelay is how long after a write its file is synced: within a second.
	syncDelay = 500 * time.Millisecond

	// checkInterval is how often a file that is written to is looked at from outside.
	checkInterval = time.Second

	// diskTimeout is how long a room waits for the disk before it goes on in memory.
	diskTimeout = 2 * time.Second

	// openTimeout is how long a room waits until its file is read. It is longer than
	// diskTimeout, because a room that begins without its file shows no history, and under the
	// ten seconds after which the page gives a connection up.
	openTimeout = 5 * time.Second

	// stopTimeout is how long a room waits for the disk at a stop, which has five seconds for
	// everything.
	stopTimeout = 500 * time.Millisecond
)

// A Log is the file of one room. A goroutine of its own, run, reads and writes it; another
// one syncs it. Its methods are for the room's goroutine; a nil Log keeps nothing.
type Log struct {
	dir  *Dir
	room string
	name string // of the file
	path string
	stop <-chan struct{} // closed when the room is to end

	// owned by the room's goroutine
	busy               bool        // run has not answered in time: its answer on done is still to come
	saved              bool        // what was handed to run last is in the file
	handedID           int64       // the last message of that
	startedWithoutFile bool        // the room began before the file was read
	timer              *time.Timer // fires when the timeout of wait is over

	opened chan *history.History // receives the file's history once; nil if there is no message in it
	work   chan snapshot         // for run to write; closed by Close. It has room for one of Commit and one of Close
	done   chan bool             // receives whether reading the file, and then each write, succeeded

	needsRewrite atomic.Bool // the file may lack something that it should have: it is to be rewritten

	// owned by run
	unread     bool      // the file could not be read yet
	startID    int64     // the room gives larger ids, if it does not continue the file
	hasEarlier bool      // there are messages in the file from before this Log; false from the first write on
	size       int64     // of the file
	written    int64     // the room's messages up to this id are in the file
	failing    bool      // the last attempt failed
	checked    time.Time // when the file was last looked at
	buf        []byte

	mu   sync.Mutex
	file File // to append to; nil when it is not open. Only run changes it

	dirty       atomic.Bool    // something was written and not synced
	dirUnsynced atomic.Bool    // the file was made, and the directory not synced
	scheduled   atomic.Bool    // a sync
	syncTimer   *time.Timer    // for the last that was scheduled; owned by run
	syncing     sync.WaitGroup // syncs that are scheduled or under way
}

// A snapshot is what a room keeps.
type snapshot struct {
	kept               []*history.Entry
	goneID             int64          // of the last message before them
	gone               *history.Entry // that message; nil if it is not known
	lastID             int64
	startedWithoutFile bool
}

// Log returns the log of a room, which ends when stop is closed. A nil Dir returns nil. The
// room's goroutine calls Open first and Close last.
func (d *Dir) Log(room string, stop <-chan struct{}) *Log {
	if d == nil {
		return nil
	}
	timer := time.NewTimer(diskTimeout)
	timer.Stop()
	name := FileName(room)
	return &Log{
		dir:    d,
		room:   room,
		name:   name,
		path:   filepath.Join(d.path, name),
		stop:   stop,
		timer:  timer,
		opened: make(chan *history.History, 1),
		work:   make(chan snapshot, 2),
		done:   make(chan bool, 2),
	}
}

// Open returns the history that a room's file continues, and h, an empty one, if there is
// none or it cannot be read in time. It waits until an earlier Log of the room has let go of
// the file.
func (l *Log) Open(h *history.History) *history.History {
	if l == nil {
		return h
	}
	l.startID = h.LastID()
	l.dir.logs.Go(l.run)
	l.saved = true
	if l.wait(openTimeout) {
		if restored := <-l.opened; restored != nil {
			h = restored
		}
	} else {
		l.startedWithoutFile = true
	}
	l.handedID = h.LastID()
	return h
}

// Commit writes what was added to a history since the last Commit. When it returns, that
// will survive the end of the process, unless the disk fails: then the Monitor was told, and
// the next Commit tries again.
func (l *Log) Commit(h *history.History) {
	if l == nil || !l.pollDone() || l.saved && l.handedID == h.LastID() && !l.needsRewrite.Load() {
		return
	}
	l.hand(h)
	l.wait(diskTimeout)
}

// Expired reports whether nothing was said for so long that the room is to be deleted. Then
// its history is to be replaced by an empty one; the next Commit deletes the file.
func (l *Log) Expired(h *history.History, now time.Time) bool {
	if l == nil || !l.dir.isExpired(h, now) {
		return false
	}
	kept, _ := h.Kept()
	return len(kept) > 0
}

// isExpired reports whether the last message of a history, whose ids are microseconds since 1970,
// is older than the directory keeps.
func (d *Dir) isExpired(h *history.History, now time.Time) bool {
	return d.keep > 0 && now.Sub(time.UnixMicro(h.LastID())) > d.keep
}

// Close lets go of the file when what a history keeps is in it. It does not wait for that;
// Dir.Close does.
func (l *Log) Close(h *history.History) {
	if l == nil {
		return
	}
	if !l.pollDone() || !l.saved || l.handedID != h.LastID() || l.needsRewrite.Load() {
		l.hand(h)
	}
	close(l.work)
}

// hand hands what a history keeps to run.
func (l *Log) hand(h *history.History) {
	kept, goneID := h.Kept()
	l.handedID = h.LastID()
	l.work <- snapshot{kept, goneID, h.LastGone(), l.handedID, l.startedWithoutFile}
}

// pollDone takes a late answer of run, if it has come, and reports whether run is idle.
func (l *Log) pollDone() bool {
	if l.busy {
		select {
		case l.saved = <-l.done:
			l.busy = false
			l.dir.monitor.Logf("history recovered", "history: the disk answers again for %s", l.name)
		default:
		}
	}
	return !l.busy
}

// wait waits until run has done what it was handed, at most for timeout, or for stopTimeout after
// the room is to end. It reports whether run has.
func (l *Log) wait(timeout time.Duration) bool {
	l.timer.Reset(timeout)
	defer l.timer.Stop()
	select {
	case l.saved = <-l.done:
		return true
	case <-l.timer.C:
	case <-l.stop:
		select {
		case l.saved = <-l.done:
			return true
		case <-time.After(stopTimeout):
		}
	}
	l.busy = true
	l.dir.monitor.Failed()
	l.dir.monitor.Logf("history failed", "history: the disk does not answer for %s; the room goes on in memory", l.name)
	return false
}

// run reads the file, then writes what it is handed, until Close.
func (l *Log) run() {
	l.dir.claim(l.name)
	h, err := l.read()
	l.unread = err != nil
	l.noteResult(err)
	l.hasEarlier = h != nil
	l.opened <- h
	l.done <- err == nil
	for s := range l.work {
		err := l.write(s)
		l.noteResult(err)
		l.done <- err == nil
	}
	l.dir.release(l.name) // nothing is written any more
	if l.failing {
		l.dir.monitor.Logf("history lost", "history: what was said last in %s is lost", l.name)
	}
	if l.syncTimer != nil && l.syncTimer.Stop() {
		l.syncing.Done()
	}
	l.syncing.Wait()
	l.sync()
	l.setFile(nil)
}

// noteResult notes the result of an attempt. It tells the Monitor of each failure, and logs the
// first in a row and the recovery.
func (l *Log) noteResult(err error) {
	switch {
	case err == nil && l.failing:
		l.dir.monitor.Logf("history recovered", "history: %s is written again", l.name)
	case err != nil && !l.failing:
		l.dir.monitor.Logf("history failed", "history: %v; the room goes on in memory", err)
	}
	if err != nil {
		l.dir.monitor.Failed()
	}
	l.failing = err != nil
}

// read reads the file and cuts off a torn line. It returns nil if there is no message in it.
func (l *Log) read() (*history.History, error) {
	l.size, l.written = 0, l.startID
	f, err := openFile(l.path, os.O_RDWR)
	if f == nil {
		return nil, err
	}
	defer f.Close()
	c, err := read(f)
	if err != nil {
		return nil, err
	}
	if c.torn {
		if err := f.Truncate(c.size); err != nil {
			return nil, err
		}
		l.dir.monitor.Logf("history torn", "history: the end of %s was not a whole line, and is cut off", l.path)
	}
	if c.bad > 0 {
		l.dir.monitor.Logf("history unreadable", "history: %s:%d cannot be read and is skipped (%d such lines)", l.path, c.firstBad, c.bad)
	}
	l.size = c.size
	if len(c.messages) == 0 {
		if c.lastID >= l.startID {
			l.needsRewrite.Store(true) // or what is said next would be skipped
		}
		return nil, nil
	}
	h := history.Restore(c.messages)
	l.written = h.LastID()
	if c.lastID > l.written {
		l.needsRewrite.Store(true)
	}
	return h, nil
}

// write brings the file to what a room keeps.
func (l *Log) write(s snapshot) error {
	if l.unread {
		h, err := l.read()
		if err != nil {
			return err
		}
		l.unread, l.hasEarlier, s.startedWithoutFile = false, h != nil, true
	}
	if s.startedWithoutFile && l.hasEarlier { // the room does not continue the file: what it keeps comes after that
		if l.written >= l.startID {
			l.needsRewrite.Store(true)
		}
		l.written = l.startID
	}
	l.hasEarlier = false
	if now := time.Now(); l.file != nil && now.Sub(l.checked) >= checkInterval {
		l.checked = now
		if !l.isOurs() {
			l.needsRewrite.Store(true)
		}
	}
	if l.needsRewrite.Load() || l.written < s.goneID { // the second: lines were cut that are not in the file
		return l.rewrite(s)
	}
	if l.size > maxFile {
		err := l.rewrite(s)
		if err == nil || l.needsRewrite.Load() {
			return err
		}
		l.noteResult(err) // there may still be room for a line
	}
	return l.append(s)
}

// append writes the messages that are not in the file.
func (l *Log) append(s snapshot) error {
	first := sort.Search(len(s.kept), func(i int) bool { return s.kept[i].ID > l.written })
	fresh := s.kept[first:]
	if len(fresh) == 0 {
		l.written = s.lastID
		return nil
	}
	if l.file == nil {
		switch err := l.open(); {
		case errors.Is(err, errChanged):
			return l.rewrite(s)
		case err != nil:
			return err
		}
	}
	l.join(fresh)
	begin := time.Now()
	n, err := l.file.Write(l.buf)
	if err != nil {
		if n > 0 && l.file.Truncate(l.size) != nil {
			l.needsRewrite.Store(true)
		}
		return err
	}
	l.dir.monitor.Wrote(len(fresh), n, time.Since(begin))
	l.size += int64(n)
	l.written = s.lastID
	l.scheduleSync()
	return nil
}

// join makes lines of messages.
func (l *Log) join(entries []*history.Entry) {
	l.buf = l.buf[:0]
	for _, e := range entries {
		l.buf = append(append(l.buf, e.Payload...), '\n')
	}
}

// errChanged says that somebody else changed a file.
var errChanged = errors.New("the file was changed")

// open opens the file to append to. It returns errChanged if somebody else changed it.
func (l *Log) open() error {
	info, err := os.Lstat(l.path)
	isNew := errors.Is(err, os.ErrNotExist)
	switch {
	case isNew && l.size > 0 || err == nil && info.Size() != l.size:
		return errChanged
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", l.path)
	case isNew:
		if err := l.dir.relock(); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	f, err := l.dir.openForWrite(l.path, os.O_APPEND, isNew)
	if err != nil {
		return err
	}
	l.setFile(f)
	l.checked = time.Now()
	if isNew {
		l.dirUnsynced.Store(true)
		l.dir.countFile()
	}
	return nil
}

// setFile replaces the open file, which it closes.
func (l *Log) setFile(f File) {
	l.mu.Lock()
	old := l.file
	l.file = f
	l.mu.Unlock()
	if old != nil {
		old.Close() // it was synced, or is about to be replaced
	}
}

// isOurs reports whether the open file is still the room's, and nobody else wrote to it.
func (l *Log) isOurs() bool {
	open, err := l.file.Stat()
	if err != nil || open.Size() != l.size {
		return false
	}
	named, err := os.Lstat(l.path)
	return err == nil && os.SameFile(open, named)
}

// rewrite replaces the file by what a room keeps, or deletes it if that is nothing. One line
// before shows to the next reader which message was the last that is gone.
func (l *Log) rewrite(s snapshot) error {
	if err := l.dir.relock(); err != nil {
		return err
	}
	if info, err := os.Lstat(l.path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", l.path)
	} else if err != nil && len(s.kept) > 0 {
		l.dir.countFile()
	}
	entries := s.kept
	if s.gone != nil {
		entries = append([]*history.Entry{s.gone}, s.kept...)
	}
	l.join(entries)
	l.setFile(nil)
	begin := time.Now()
	if len(s.kept) == 0 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		l.dir.files.Add(-1)
	} else {
		if err := l.dir.replace(l.path, l.buf); err != nil {
			return err
		}
		l.dir.monitor.Wrote(len(entries), len(l.buf), time.Since(begin))
	}
	l.needsRewrite.Store(false)
	l.dirty.Store(false)
	l.size = int64(len(l.buf))
	l.written = s.lastID
	l.buf = nil // it was large
	return nil
}

// scheduleSync syncs the file soon.
func (l *Log) scheduleSync() {
	l.dirty.Store(true)
	if l.scheduled.CompareAndSwap(false, true) {
		l.syncing.Add(1)
		l.syncTimer = time.AfterFunc(syncDelay, func() {
			defer l.syncing.Done()
			l.scheduled.Store(false)
			l.sync()
		})
	}
}

// sync syncs the file, if something was written to it.
func (l *Log) sync() {
	if !l.dirty.Swap(false) {
		return
	}
	l.mu.Lock()
	f := l.file
	l.mu.Unlock()
	if f == nil { // it was replaced
		return
	}
	l.dir.syncs <- struct{}{}
	defer func() { <-l.dir.syncs }()
	begin := time.Now()
	err := f.Sync()
	if err == nil && l.dirUnsynced.Swap(false) {
		err = syncDir(l.dir.path)
	}
	if errors.Is(err, os.ErrClosed) { // replaced meanwhile
		return
	}
	if err != nil {
		l.needsRewrite.Store(true) // the system may have dropped what was not synced
		l.dir.monitor.Failed()
		l.dir.monitor.Logf("history failed", "history: %v", err)
		return
	}
	l.dir.monitor.Synced(time.Since(begin))
}
