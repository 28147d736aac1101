// Package filelog keeps what is said in rooms in files, one a room, so that it is still there
// after a restart, a crash or a kill. A file has a line for each message, oldest first, as
// ChatV1 spells it: tail, grep and jq can read it.
//
// What a Log has committed survives the end of the process, and a second later a power cut.
// A disk that fails or does not answer stops no room: it goes on in memory, and as soon as
// writing works again the file has what the room keeps.
package filelog

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxFiles is how many files of rooms there may be.
	maxFiles = 10_000

	// cleanInterval is how often files of rooms that were silent for too long are looked for.
	cleanInterval = time.Hour

	// maxSyncs is how many files are synced at a time: each takes up a thread.
	maxSyncs = 64
)

// errLocked says that another process has the lock.
var errLocked = errors.New("another chat is running with this directory")

// A Monitor is told what happens. Its methods may be called from any goroutine.
type Monitor interface {
	Logf(kind, format string, args ...any)      // what an operator should know; there may be many of a kind
	Wrote(lines, bytes int, took time.Duration) // to a file; took is for the whole write
	Synced(took time.Duration)                  // a file
	Failed()                                    // to read, write or sync a file, or not in time
}

// A Dir is a directory with a file for each room. One process uses it at a time.
type Dir struct {
	path    string
	keep    time.Duration // how long a room may be silent before its file is deleted; 0 for ever
	monitor Monitor
	secret  [32]byte
	files   atomic.Int64  // about how many rooms have one
	tooMany chan struct{} // receives when they are more than maxFiles
	syncs   chan struct{} // a token for each sync under way
	reads   chan struct{} // a token for each file that Read reads
	closed  chan struct{} // closed by Close
	cleaner sync.WaitGroup
	logs    sync.WaitGroup // those that are open

	// Wrap is called for each file that is opened to write, unless it is nil. With it a test
	// simulates a slow disk, or a full one.
	Wrap func(*os.File) File

	mu     sync.Mutex
	claims map[string]chan struct{} // by file; closed when it is released

	lockMu sync.Mutex
	locked *os.File    // the lock
	info   os.FileInfo // of the directory in which the lock is
}

// A File is what a Log needs of an *os.File to write to.
type File interface {
	Write([]byte) (int, error)
	Truncate(int64) error
	Sync() error
	Stat() (os.FileInfo, error)
	Close() error
}

// Open makes a directory if it is not there, locks it for this process, and deletes files of
// rooms in which nothing was said for keep, 0 for none. The caller calls Close.
func Open(path string, keep time.Duration, monitor Monitor) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{
		path:    path,
		keep:    keep,
		monitor: monitor,
		tooMany: make(chan struct{}, 1),
		syncs:   make(chan struct{}, maxSyncs),
		reads:   make(chan struct{}, maxReads),
		closed:  make(chan struct{}),
		claims:  make(map[string]chan struct{}),
	}
	if err := d.makeDir(); err != nil {
		return nil, err
	}
	if err := d.relock(); err != nil {
		return nil, err
	}
	if d.info.Mode().Perm()&0o077 != 0 {
		monitor.Logf("history directory", "%s is open to other users of this machine: chmod 700 would close it", path)
	}
	d.clean(time.Now())
	d.cleaner.Go(d.cleanLoop)
	return d, nil
}

// makeDir makes the directory, closed to others whatever the umask.
func (d *Dir) makeDir() error {
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return err
	}
	err := os.Mkdir(d.path, 0o700)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(d.path, 0o700)
}

// relock locks the directory unless the lock is in it, as it is not when the directory was
// removed and made again.
func (d *Dir) relock() error {
	d.lockMu.Lock()
	defer d.lockMu.Unlock()
	info, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", d.path)
	}
	if d.info != nil && os.SameFile(d.info, info) {
		return nil
	}
	locked, err := lock(filepath.Join(d.path, "lock"))
	if err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	if err := d.initSecret(d.info == nil); err != nil {
		locked.Close()
		return err
	}
	if d.locked != nil {
		d.locked.Close()
	}
	d.locked, d.info = locked, info
	return nil
}

// initSecret reads the secret if that is asked for and there is one, and writes it otherwise.
func (d *Dir) initSecret(reads bool) error {
	path := filepath.Join(d.path, "secret")
	if reads {
		text, err := os.ReadFile(path)
		if err == nil {
			n, err := hex.Decode(d.secret[:], []byte(strings.TrimSpace(string(text[:min(len(text), 65)]))))
			if err != nil || n != len(d.secret) {
				return fmt.Errorf("%s is not 64 hexadecimal digits", path)
			}
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		rand.Read(d.secret[:])
	}
	return d.replace(path, fmt.Appendf(nil, "%x\n", d.secret))
}

// Secret returns 32 random bytes, the same as long as the directory is there.
func (d *Dir) Secret() [32]byte { return d.secret }

// openForWrite opens a file to write. One that is new, or is emptied, is closed to others whatever
// the umask.
func (d *Dir) openForWrite(path string, flag int, isNew bool) (File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flag, 0o600)
	if err != nil {
		return nil, err
	}
	if isNew {
		f.Chmod(0o600) // a file system without modes may refuse
	}
	if d.Wrap != nil {
		return d.Wrap(f), nil
	}
	return f, nil
}

// replace replaces a file, or makes it: at any moment, after a power cut, too, there is
// either what was in it or data. Nobody may have the file open, as Windows does not rename
// then.
func (d *Dir) replace(path string, data []byte) error {
	temp := path + tempSuffix
	f, err := d.openForWrite(temp, os.O_TRUNC, true)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp) // else the next replace, or the next start, does it
		return err
	}
	return syncDir(d.path)
}

// claim waits until nobody else has a file's claim, and takes it. The caller calls release.
func (d *Dir) claim(name string) {
	for !d.tryClaim(name) {
		d.mu.Lock()
		released := d.claims[name]
		d.mu.Unlock()
		if released != nil {
			<-released
		}
	}
}

// tryClaim takes a file's claim if nobody has it, and reports whether it did. If so, the caller
// calls release.
func (d *Dir) tryClaim(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.claims[name] != nil {
		return false
	}
	d.claims[name] = make(chan struct{})
	return true
}

// release gives a file's claim back.
func (d *Dir) release(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.claims[name])
	delete(d.claims, name)
}

// cleanLoop calls clean every cleanInterval, and when there are more than maxFiles, but not more
// than once a second, until Close.
func (d *Dir) cleanLoop() {
	ticker := time.NewTicker(cleanInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-d.tooMany:
		case <-d.closed:
			return
		}
		d.clean(time.Now())
		select {
		case <-time.After(time.Second): // somebody may make files all the time
		case <-d.closed:
			return
		}
	}
}

// clean deletes files of rooms that are not open: those that were not written to for keep,
// and if there are more than maxFiles, those that were not written to for longest.
func (d *Dir) clean(now time.Time) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		d.monitor.Failed()
		d.monitor.Logf("history failed", "history: %v", err)
	}
	type candidate struct {
		name    string
		written time.Time
	}
	var files []candidate
	for _, e := range entries {
		if room, isTemp := strings.CutSuffix(e.Name(), tempSuffix); isTemp && isRoomFile(room) && d.tryClaim(room) {
			os.Remove(filepath.Join(d.path, e.Name())) // left by a crash
			d.release(room)
		}
		if info, err := e.Info(); err == nil && isRoomFile(e.Name()) && info.Mode().IsRegular() {
			files = append(files, candidate{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(files, func(a, b candidate) int { return cmp.Or(a.written.Compare(b.written), cmp.Compare(a.name, b.name)) })
	left := len(files)
	for _, f := range files {
		if left > maxFiles || d.keep > 0 && now.Sub(f.written) > d.keep {
			if d.remove(f.name, f.written) {
				left--
			}
		}
	}
	d.files.Store(int64(left))
}

// remove deletes a room's file, unless the room is open or the file was written to since.
func (d *Dir) remove(name string, written time.Time) bool {
	if !d.tryClaim(name) {
		return false
	}
	defer d.release(name)
	path := filepath.Join(d.path, name)
	info, err := os.Lstat(path)
	if err != nil || !info.ModTime().Equal(written) {
		return false
	}
	if err := os.Remove(path); err != nil {
		d.monitor.Failed()
		d.monitor.Logf("history failed", "history: %v", err)
		return false
	}
	return true
}

// countFile counts a file that was made.
func (d *Dir) countFile() {
	if d.files.Add(1) > maxFiles {
		select {
		case d.tooMany <- struct{}{}:
		default:
		}
	}
}

// Close waits until the closed Logs are written, at most for wait: a disk may be stuck. Then it
// unlocks the directory; if a Log is left, the end of the process does. All Logs must be closed
// before.
func (d *Dir) Close(wait time.Duration) {
	close(d.closed)
	idle := make(chan struct{})
	go func() {
		d.cleaner.Wait()
		d.logs.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		d.locked.Close()
	case <-time.After(wait):
		d.monitor.Logf("history lost", "history: %s does not answer; what was said last may not be in it", d.path)
	}
}
