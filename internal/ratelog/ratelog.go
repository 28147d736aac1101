// Package ratelog writes log lines, at most one a second of each kind, so that a
// client that fails a hundred times a second cannot fill a disk. A line that is
// suppressed is counted, and the count is logged a second later.
package ratelog

import (
	"bytes"
	"fmt"
	"log"
	"sync"
	"time"
)

// interval is the least time between two lines of one kind.
const interval = time.Second

// Logger writes lines to the standard logger. Its methods may be called from any
// goroutine and never wait for the log's destination, which may block: a terminal
// does while somebody selects text in it.
type Logger struct {
	mu         sync.Mutex
	suppressed map[string]int // by kind, of the kinds that were logged within the last interval
}

// New returns a Logger that has logged nothing yet.
func New() *Logger {
	return &Logger{suppressed: make(map[string]int)}
}

// Printf logs a line, or counts it if a line of the same kind was logged within the
// last second. Text that comes from a peer must be quoted by the caller.
func (l *Logger) Printf(kind, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, recent := l.suppressed[kind]; recent {
		l.suppressed[kind]++
		return
	}
	l.suppressed[kind] = 0
	go l.print(kind, fmt.Sprintf(format, args...))
}

// print logs a line and starts the interval of its kind. It runs in a goroutine of its
// own, at most one for each kind.
func (l *Logger) print(kind, line string) {
	log.Print(line)
	time.AfterFunc(interval, func() { l.endInterval(kind) })
}

// endInterval logs how many lines of a kind were suppressed, and forgets the kind if
// there were none.
func (l *Logger) endInterval(kind string) {
	l.mu.Lock()
	n := l.suppressed[kind]
	if n == 0 {
		delete(l.suppressed, kind)
	} else {
		l.suppressed[kind] = 0
	}
	l.mu.Unlock()
	if n > 0 {
		l.print(kind, fmt.Sprintf("%s: %d more", kind, n))
	}
}

// Write logs a line of the kind "http". It lets a Logger serve as net/http's ErrorLog,
// which says for example that no file descriptor is left.
func (l *Logger) Write(line []byte) (int, error) {
	l.Printf("http", "%s", bytes.TrimSpace(line))
	return len(line), nil
}
