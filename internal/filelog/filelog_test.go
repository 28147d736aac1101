package filelog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/history"
	"chat/internal/protocol"
)

// A monitor records what a Dir says.
type monitor struct {
	mu     sync.Mutex
	log    []string
	lines  int
	syncs  int
	failed int
}

func (m *monitor) Logf(kind, format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *monitor) Wrote(lines, bytes int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines += lines
}

func (m *monitor) Synced(time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
}

func (m *monitor) Failed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed++
}

// wantLogged fails the test unless n lines of the log have a part.
func (m *monitor) wantLogged(t *testing.T, n int, part string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	got := 0
	for _, line := range m.log {
		if strings.Contains(line, part) {
			got++
		}
	}
	if got != n {
		t.Errorf("%q is %d times in the log, want %d:\n%s", part, got, n, strings.Join(m.log, "\n"))
	}
}

func (m *monitor) failures() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

func (m *monitor) synced() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.syncs
}

// openDir opens a directory, and closes it with the test.
func openDir(t testing.TB, path string, keep time.Duration) (*Dir, *monitor) {
	t.Helper()
	m := new(monitor)
	d, err := Open(path, keep, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(time.Minute) })
	return d, m
}

// A room is the part of a hub that a Log needs.
type room struct {
	t    testing.TB
	log  *Log
	h    *history.History
	stop chan struct{}

	closed bool
}

// openRoom opens a room of a directory, and closes it with the test.
func openRoom(t testing.TB, d *Dir, name string) *room {
	r := &room{t: t, stop: make(chan struct{})}
	r.log = d.Log(name, r.stop)
	r.h = r.log.Open(history.New(time.Now(), 0))
	t.Cleanup(r.close)
	return r
}

// say adds messages and commits them in one turn.
func (r *room) say(texts ...string) {
	for _, text := range texts {
		r.h.Add(protocol.Message{UserID: "0123456789abcdef", Name: "Ada", Text: text, ClientMsgID: text[:min(len(text), 8)]}, time.Now())
	}
	r.log.Commit(r.h)
}

// tick does what the hub does each second.
func (r *room) tick() { r.log.Commit(r.h) }

// close closes the room, and waits for its file.
func (r *room) close() {
	if r.closed {
		return
	}
	r.leave()
	r.log.dir.claim(r.log.name)
	r.log.dir.release(r.log.name)
}

// leave closes the room and does not wait.
func (r *room) leave() {
	r.closed = true
	r.log.Close(r.h)
}

// texts returns the kept messages.
func (r *room) texts() (texts []string) {
	r.t.Helper()
	kept, _ := r.h.Kept()
	for _, e := range kept {
		m, err := protocol.DecodeMessage(e.Payload)
		if err != nil {
			r.t.Errorf("%s: %v", e.Payload, err)
		}
		texts = append(texts, m.Text)
	}
	return texts
}

// want fails the test unless exactly these messages are kept.
func (r *room) want(texts ...string) {
	r.t.Helper()
	if got := r.texts(); !slices.Equal(got, texts) {
		r.t.Errorf("kept %.300q\nwant %.300q", got, texts)
	}
}

// wantFile fails the test unless exactly these messages are in the file of the lobby.
func wantFile(t *testing.T, dir string, texts ...string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, lobbyFile))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	c, err := read(f)
	var got []string
	if len(c.messages) > 0 {
		r := &room{t: t, h: history.Restore(c.messages)}
		got = r.texts()
	}
	if err != nil || c.bad > 0 || c.torn || !slices.Equal(got, texts) {
		t.Errorf("the file has %.300q (%d bad lines, torn %v, %v)\nwant %.300q", got, c.bad, c.torn, err, texts)
	}
}

// A disk is between a Dir and its files.
type disk struct {
	mu    sync.Mutex
	full  bool                  // writing stops in the middle of a line
	fails func(op string) error // nil never
	slow  time.Duration         // for each write
}

func (d *disk) wrap(f *os.File) File { return &badFile{File: f, disk: d} }

func (d *disk) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *disk) check(op string) (bool, error) {
	d.mu.Lock()
	full, fails, slow := d.full, d.fails, d.slow
	d.mu.Unlock()
	if op == "write" {
		time.Sleep(slow)
	}
	if fails != nil {
		return full, fails(op)
	}
	return full, nil
}

type badFile struct {
	*os.File
	disk *disk
}

func (f *badFile) Write(b []byte) (int, error) {
	full, err := f.disk.check("write")
	if err != nil {
		return 0, err
	}
	if full {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, syscall.ENOSPC
	}
	return f.File.Write(b)
}

func (f *badFile) Truncate(size int64) error {
	if _, err := f.disk.check("truncate"); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *badFile) Sync() error {
	if _, err := f.disk.check("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

// line returns a line of a file.
func line(id int64, text string) string {
	m := protocol.Message{ID: id, Time: time.UnixMicro(1e15), UserID: "a", Name: "Ada", Text: text}
	return string(m.Encode()) + "\n"
}

func TestFileNames(t *testing.T) {
	longest := strings.Repeat("\U0001e900", protocol.MaxRoomName) // letters of four bytes
	for room, want := range map[string]string{
		"":           "lobby.jsonl",
		"lobby":      "room-lobby.jsonl",
		"team_1-x":   "room-team_1-x.jsonl",
		"con":        "room-con.jsonl",
		"café":       "room+mnqwnq5j.jsonl",
		"cafe\u0301": "room+mnqwmzomqe.jsonl",
		"../etc":     "room+fyxc6zlumm.jsonl",
		"Team":       "room+krswc3i.jsonl",
	} {
		if got := FileName(room); got != want {
			t.Errorf("%q: %s, want %s", room, got, want)
		}
	}
	seen := map[string]string{}
	for _, room := range []string{"", "lobby", "a", "A", "mfra", "é", "e\u0301", "ß", "ss", "ſ", "K", "k", "straße", longest, "nul", ".", ".."} {
		name := FileName(room)
		if len(name+".tmp") > 255 || filepath.Base(name) != name || strings.ToLower(name) != name || !isRoomFile(name) {
			t.Errorf("%q: %s", room, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q share %s", room, other, name)
		}
		seen[name] = room
	}
	for _, name := range []string{"lock", "secret", "lobby.jsonl.tmp", "notes.jsonl", "room-x.txt"} {
		if isRoomFile(name) {
			t.Errorf("%s passes for a room's file", name)
		}
	}
}

// What was committed is there after a restart, with ids that go on, and the file is lines
// of JSON as ChatV1 spells messages.
func TestARestartKeepsHistory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d, m := openDir(t, dir, 0)
	a := openRoom(t, d, "")
	a.say("one", "two")
	a.say("three")
	kept, _ := a.h.Kept()
	text, _ := os.ReadFile(filepath.Join(dir, lobbyFile))
	want := ""
	for _, e := range kept {
		want += string(e.Payload) + "\n"
	}
	if string(text) != want {
		t.Errorf("the file is\n%s", text)
	}
	a.close()
	b := openRoom(t, d, "")
	b.want("one", "two", "three")
	if entry := b.h.Find("0123456789abcdef", "two"); entry == nil || entry.ID != kept[1].ID {
		t.Error("a message that is sent again is not found")
	}
	if _, missed := b.h.Since(history.Position(kept[0].ID)); missed || b.h.LastID() != kept[2].ID {
		t.Error("ids do not go on")
	}
	b.say("four")
	b.close()
	openRoom(t, d, "").want("one", "two", "three", "four")
	if m.failures() > 0 || len(m.log) > 0 || m.lines != 4 {
		t.Errorf("%d lines written, %d failures, %q", m.lines, m.failures(), m.log)
	}
}

// A directory has a secret, which is made once.
func TestSecret(t *testing.T) {
	dir := t.TempDir()
	var secrets [][32]byte
	for range 2 {
		d, err := Open(dir, 0, new(monitor))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, d.Secret())
		d.Close(time.Minute)
	}
	if secrets[0] != secrets[1] || secrets[0] == [32]byte{} {
		t.Errorf("%x", secrets)
	}
	os.WriteFile(filepath.Join(dir, "secret"), []byte("short"), 0o600)
	if _, err := Open(dir, 0, new(monitor)); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a bad secret: %v", err)
	}
}

// A directory that cannot be used is an error that names it.
func TestBadDirectories(t *testing.T) {
	dir := t.TempDir()
	openDir(t, dir, 0)
	plain := filepath.Join(t.TempDir(), "file")
	os.WriteFile(plain, nil, 0o600)
	for _, path := range []string{dir, plain, filepath.Join(plain, "below"), "/proc/chat"} {
		d, err := Open(path, 0, new(monitor))
		if err == nil || !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), filepath.Dir(path)) {
			t.Errorf("%s: %v, %v", path, d, err)
		}
	}
	if _, err := Open(dir, 0, new(monitor)); !errors.Is(err, errLocked) {
		t.Errorf("two use a directory: %v", err)
	}
}

// What somebody, or a crash, may have made of a file.
func TestFaultyFiles(t *testing.T) {
	many := ""
	for i := range int64(history.MaxMessages) {
		many += line(i+10, "x")
	}
	for name, file := range map[string]struct {
		content string
		want    []string
		bad     string // the line that the log names
		torn    bool
	}{
		"empty":                        {"", nil, "", false},
		"a torn line":                  {line(1, "one") + line(2, "two")[:30], []string{"one"}, "", true},
		"torn before LF":               {line(1, "one") + strings.TrimSpace(line(2, "two")), []string{"one"}, "", true},
		"only a torn line":             {`{"type"`, nil, "", true},
		"garbage":                      {line(1, "one") + "garbage\n\x00\xff\n{}\n" + line(2, "two"), []string{"one", "two"}, ":2 ", false},
		"nothing else":                 {strings.Repeat("garbage\n", 1000), nil, ":1 ", false},
		"a binary":                     {strings.Repeat("\x7fELF\x00", 100_000), nil, "", true},
		"20 MB":                        {line(1, "one") + strings.Repeat("x", 20<<20) + "\n" + line(2, "two"), []string{"one", "two"}, ":2 ", false},
		"20 MB at the end":             {line(1, "one") + strings.Repeat("x", 20<<20), []string{"one"}, "", true},
		"ids that repeat":              {line(1, "one") + line(2, "two") + line(2, "again") + line(1, "back") + line(3, "three"), []string{"one", "two", "three"}, ":3 ", false},
		"ids up to 2^53":               {line(1, "one") + line(1<<53, "two") + line(1<<62, "three") + line(2, "four"), []string{"one", "four"}, ":2 ", false},
		"an id of 30 digits":           {line(1, "one") + strings.Replace(line(2, "two"), `"id":2`, `"id":`+strings.Repeat("9", 30), 1) + line(2, "three"), []string{"one", "three"}, ":2 ", false},
		"no id":                        {line(1, "one") + `{"type":"message","text":"two"}` + "\n" + line(2, "three"), []string{"one", "three"}, ":2 ", false},
		"fields turned":                {`{"id":1,"from":"a","type":"message","text":"one","name":"","time":"2026-11-25T01:39:09.000Z"}` + "\n", []string{"one"}, "", false},
		"CRLF":                         {strings.ReplaceAll(line(1, "one")+line(2, "two"), "\n", "\r\n"), []string{"one", "two"}, "", false},
		"blank lines":                  {"\n" + line(1, "one") + "\n\n" + line(2, "two") + "\n", []string{"one", "two"}, "", false},
		"a text of several lines":      {line(1, "\ta\n\n b") + line(2, "two"), []string{"\ta\n\n b", "two"}, "", false},
		"a text that is not all clean": {line(1, "\u2028one\u2028two\u0085"), []string{"one\ntwo"}, "", false},
		"a text that is too long":      {line(1, strings.Repeat("x", protocol.MaxText+1)) + line(2, "two"), []string{"two"}, ":1 ", false},
		"a blank text at the end":      {line(1, "one") + line(1<<53-1, ""), []string{"one"}, ":2 ", false},
		"more than is kept":            {line(1, "one") + line(2, "two") + many, slices.Repeat([]string{"x"}, history.MaxMessages), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			os.WriteFile(filepath.Join(dir, lobbyFile), []byte(file.content), 0o600)
			d, m := openDir(t, dir, 0)
			r := openRoom(t, d, "")
			r.want(file.want...)
			if _, gone := r.h.Kept(); strings.HasPrefix(name, "more") && gone != 2 {
				t.Errorf("the last that is gone is %d", gone)
			}
			if file.bad != "" {
				m.wantLogged(t, 1, filepath.Join(dir, lobbyFile)+file.bad)
			}
			m.wantLogged(t, map[bool]int{true: 1}[file.torn], "is cut off")
			r.say("new")
			r.close()
			again := openRoom(t, d, "")
			want := append(slices.Clone(file.want), "new")
			again.want(want[max(0, len(want)-history.MaxMessages):]...)
			if m.failures() > 0 {
				t.Errorf("%q", m.log)
			}
		})
	}
}

// A crash may leave any part of the last write: what was there before it is kept, and what
// is said next is not added to a torn line.
func TestACrashInsideAWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, lobbyFile)
	whole, last := line(1, "one")+line(2, "two"), line(3, "three")+line(4, "four")
	for n := range len(last) {
		os.WriteFile(path, []byte(whole+last[:n]), 0o600)
		d, err := Open(dir, 0, new(monitor))
		if err != nil {
			t.Fatal(err)
		}
		r := openRoom(t, d, "")
		want := []string{"one", "two"}
		if n >= len(line(3, "three")) {
			want = append(want, "three")
		}
		r.want(want...)
		r.say("new")
		r.close()
		wantFile(t, dir, append(want, "new")...)
		d.Close(time.Minute)
	}
}

// A file above maxFile is rewritten to what is kept.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	d, m := openDir(t, dir, 0)
	r := openRoom(t, d, "")
	largest := int64(0)
	for i := range 2500 {
		r.say(fmt.Sprint(i, strings.Repeat("x", 1000)))
		info, err := os.Stat(filepath.Join(dir, lobbyFile))
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
	}
	if largest < maxFile/2 || largest > maxFile+8<<10 {
		t.Errorf("the largest file had %d bytes", largest)
	}
	r.log.needsRewrite.Store(true)
	r.tick() // rewrites it once more
	r.close()
	again := openRoom(t, d, "")
	again.want(r.texts()...)
	_, gone := r.h.Kept()
	if _, goneAgain := again.h.Kept(); goneAgain != gone {
		t.Errorf("the last that is gone is %d, want %d", goneAgain, gone)
	}
	if _, err := os.Stat(filepath.Join(dir, lobbyFile+".tmp")); err == nil || m.failures() > 0 {
		t.Errorf("%v %q", err, m.log)
	}
}

// A rewrite that a crash interrupts leaves the file as it was, or as it is to be; one that
// fails is tried again, and nothing is lost meanwhile.
func TestAnInterruptedRewrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, lobbyFile)
	for _, temp := range []string{"", line(1, "one")[:20], line(1, "one"), line(1, "one") + line(2, "two")} { // before the rename
		os.WriteFile(path, []byte(line(1, "one")+line(2, "two")), 0o600)
		os.WriteFile(path+".tmp", []byte(temp), 0o600)
		d, _ := Open(dir, 0, new(monitor))
		if _, err := os.Stat(path + ".tmp"); !os.IsNotExist(err) {
			t.Errorf("a temporary file is left: %v", err)
		}
		r := openRoom(t, d, "")
		r.want("one", "two")
		r.close()
		d.Close(time.Minute)
	}
	for _, op := range []string{"write", "sync", "rename"} {
		t.Run(op, func(t *testing.T) {
			dir := t.TempDir()
			d, m := openDir(t, dir, 0)
			var bad disk
			d.Wrap = bad.wrap
			r := openRoom(t, d, "")
			for r.log.size <= maxFile { // run is idle between two commits
				r.say(strings.Repeat("x", 4000))
			}
			temp := filepath.Join(dir, lobbyFile+".tmp")
			switch op {
			case "rename":
				os.MkdirAll(filepath.Join(temp, "in the way"), 0o700)
			case "write":
				bad.set(func() {
					bad.fails = func(op string) error {
						if _, err := os.Stat(temp); err == nil && op == "write" {
							return syscall.ENOSPC
						}
						return nil
					}
				})
			default:
				bad.set(func() {
					bad.fails = func(op string) error {
						if op == "sync" {
							return syscall.EIO
						}
						return nil
					}
				})
			}
			r.say("during")
			if m.failures() == 0 {
				t.Error("nothing failed")
			}
			wantFile(t, dir, r.texts()...) // the line was appended
			bad.set(func() { bad.fails = nil })
			os.RemoveAll(temp)
			r.say("after")
			wantFile(t, dir, r.texts()...)
			if info, _ := os.Stat(filepath.Join(dir, lobbyFile)); info.Size() > maxFile {
				t.Errorf("it was not rewritten: %d bytes", info.Size())
			}
			r.close()
			openRoom(t, d, "").want(r.texts()...)
		})
	}
}

// On a full disk a room goes on in memory, with one log line. What could not be written is
// in the file as soon as there is room, without a half line before it: with the next
// message, or a second later.
func TestAFullDisk(t *testing.T) {
	for name, step := range map[string]func(*room, *disk){
		"next turn":  func(r *room, d *disk) { r.say("after") },
		"next tick":  func(r *room, d *disk) { r.tick() },
		"at the end": func(r *room, d *disk) {},
		"more than is kept": func(r *room, d *disk) {
			d.set(func() { d.full = true })
			for range 300 {
				r.say("a", "b")
			}
			d.set(func() { d.full = false })
			r.say("after")
		},
		"not even to cut back": func(r *room, d *disk) {
			d.set(func() {
				d.full, d.fails = true, func(op string) error {
					if op == "truncate" {
						return syscall.EIO
					}
					return nil
				}
			})
			r.say("half")
			d.set(func() { d.full, d.fails = false, nil })
			r.say("after")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d, m := openDir(t, dir, 0)
			var bad disk
			d.Wrap = bad.wrap
			r := openRoom(t, d, "")
			r.say("before")
			bad.set(func() { bad.full = true })
			r.say("during 1")
			r.say("during 2")
			wantFile(t, dir, "before") // no half line
			if m.failures() != 2 {
				t.Errorf("%d failures", m.failures())
			}
			m.wantLogged(t, 1, "goes on in memory")
			bad.set(func() { bad.full = false })
			step(r, &bad)
			r.close()
			wantFile(t, dir, r.texts()...)
			openRoom(t, d, "").want(r.texts()...)
		})
	}
}

// If a file cannot be synced, nobody knows what is on the disk: it is written anew.
func TestAFailingSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, m := openDir(t, dir, 0)
		var bad disk
		d.Wrap = bad.wrap
		r := openRoom(t, d, "")
		bad.set(func() {
			bad.fails = func(op string) error {
				if op == "sync" {
					return syscall.EIO
				}
				return nil
			}
		})
		r.say("hello")
		time.Sleep(time.Second)
		synctest.Wait()
		if m.failures() != 1 || m.synced() != 0 {
			t.Errorf("%d failures, %d syncs", m.failures(), m.synced())
		}
		os.Truncate(filepath.Join(dir, lobbyFile), 0) // what the disk may make of it
		bad.set(func() { bad.fails = nil })
		r.tick()
		wantFile(t, dir, "hello")
		r.close()
	})
}

// A file is synced within a second of a write, however many writes there are, and at the end.
func TestSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := openDir(t, t.TempDir(), 0)
		r := openRoom(t, d, "")
		for range 100 {
			r.say("hello")
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if m.synced() < 10 || m.synced() > 20 {
			t.Errorf("%d syncs in ten seconds", m.synced())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		before := m.synced()
		time.Sleep(time.Minute)
		r.say("goodbye")
		r.close()
		synctest.Wait()
		if m.synced() != before+1 {
			t.Errorf("%d syncs at the end", m.synced()-before)
		}
	})
}

// A disk that takes ten seconds for a write holds up its room for diskTimeout, once, and no
// other room. What was said meanwhile is in the file when it answers.
func TestASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, m := openDir(t, dir, 0)
		var bad disk
		d.Wrap = func(f *os.File) File {
			if strings.Contains(f.Name(), lobbyFile) {
				return bad.wrap(f)
			}
			return f
		}
		lobby, other := openRoom(t, d, ""), openRoom(t, d, "other")
		lobby.say("before")
		bad.set(func() { bad.slow = 10 * time.Second })
		begin := time.Now()
		lobby.say("stuck")
		if took := time.Since(begin); took != diskTimeout {
			t.Errorf("the room waited %v", took)
		}
		begin = time.Now()
		for i := range 5 {
			lobby.say(fmt.Sprint("in memory ", i))
			other.say(fmt.Sprint("other ", i))
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("then it waited %v", took)
		}
		m.wantLogged(t, 1, "goes on in memory")
		if m.failures() != 1 {
			t.Errorf("%d failures", m.failures())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		bad.set(func() { bad.slow = 0 })
		lobby.tick()
		wantFile(t, dir, lobby.texts()...)
		lobby.close()
		other.close()
	})
}

// A stop does not wait for a disk that does not answer.
func TestAStopWithAStuckDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(monitor)
		d, _ := Open(t.TempDir(), 0, m)
		var bad disk
		d.Wrap = bad.wrap
		r := openRoom(t, d, "")
		bad.set(func() { bad.slow = 10 * time.Second })
		begin := time.Now()
		close(r.stop)
		r.say("last words")
		r.leave()
		if took := time.Since(begin); took != stopTimeout {
			t.Errorf("the room waited %v", took)
		}
		d.Close(4 * time.Second)
		if took := time.Since(begin); took != stopTimeout+4*time.Second {
			t.Errorf("the stop took %v", took)
		}
		m.wantLogged(t, 1, "does not answer; what was said last")
		time.Sleep(time.Minute) // for the goroutines
	})
}

// A room's file that is still being closed is waited for, but not for long: then the room
// begins in memory, and what it says comes after what the file has.
func TestARoomIsOpenedWhileItIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, _ := openDir(t, dir, 0)
		var bad disk
		d.Wrap = bad.wrap
		for _, slow := range []time.Duration{openTimeout - time.Second, 10 * time.Second} {
			first := openRoom(t, d, "")
			before := first.texts()
			bad.set(func() { bad.slow = slow })
			first.h.Add(protocol.Message{UserID: "a", Text: fmt.Sprint("one ", slow)}, time.Now())
			first.leave() // writes
			time.Sleep(time.Millisecond)
			bad.set(func() { bad.slow = 0 })
			second := openRoom(t, d, "")
			all := append(before, fmt.Sprint("one ", slow))
			if slow < openTimeout {
				second.want(all...)
			} else {
				second.want()
			}
			second.say(fmt.Sprint("two ", slow))
			time.Sleep(slow)
			synctest.Wait()
			second.tick()
			second.close()
			wantFile(t, dir, append(all, fmt.Sprint("two ", slow))...)
		}
	})
}

// While people talk, the file is edited, truncated, replaced or deleted, or the whole
// directory vanishes and comes back: a second later the file has what is kept.
func TestAFileIsChangedWhileItIsOpen(t *testing.T) {
	for name, change := range map[string]struct{ vanish, comeBack func(dir, path string) }{
		"truncated": {func(dir, path string) { os.Truncate(path, 100) }, nil},
		"emptied":   {func(dir, path string) { os.Truncate(path, 0) }, nil},
		"deleted":   {func(dir, path string) { os.Remove(path) }, nil},
		"added to": {func(dir, path string) {
			f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			f.WriteString("half a line")
			f.Close()
		}, nil},
		"saved by an editor": {func(dir, path string) {
			text, _ := os.ReadFile(path)
			os.WriteFile(path+"~", text, 0o600)
			os.Rename(path+"~", path)
		}, nil},
		"the directory is removed and made again": {
			func(dir, path string) { os.RemoveAll(dir) },
			func(dir, path string) { os.Mkdir(dir, 0o700) }},
		"the directory is moved away and back": {
			func(dir, path string) { os.Rename(dir, dir+"~") },
			func(dir, path string) { os.Rename(dir+"~", dir) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "history")
				d, m := openDir(t, dir, 0)
				secret := d.Secret()
				r := openRoom(t, d, "")
				r.say("one")
				r.say("two")
				change.vanish(dir, filepath.Join(dir, lobbyFile))
				time.Sleep(checkInterval)
				r.say("three")
				if change.comeBack != nil {
					if m.failures() == 0 {
						t.Error("nothing failed")
					}
					m.wantLogged(t, 1, "goes on in memory")
					change.comeBack(dir, filepath.Join(dir, lobbyFile))
					time.Sleep(time.Second)
					r.tick()
					if _, err := Open(dir, 0, new(monitor)); !errors.Is(err, errLocked) {
						t.Errorf("the directory is not locked: %v", err)
					}
				}
				wantFile(t, dir, "one", "two", "three")
				r.say("four")
				r.close()
				wantFile(t, dir, "one", "two", "three", "four")
				text, _ := os.ReadFile(filepath.Join(dir, "secret"))
				if strings.TrimSpace(string(text)) != fmt.Sprintf("%x", secret) {
					t.Errorf("the secret is %q", text)
				}
			})
		})
	}
}

// A file that cannot be read is left alone, and the room goes on in memory; when it can be
// read, what was said meanwhile comes after what it has.
func TestAFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, lobbyFile)
	os.Mkdir(path, 0o700) // root may read any file
	d, m := openDir(t, dir, 0)
	r := openRoom(t, d, "")
	r.say("one")
	r.say("two")
	if m.failures() != 3 {
		t.Errorf("%d failures", m.failures())
	}
	m.wantLogged(t, 1, "goes on in memory")
	os.Remove(path)
	os.WriteFile(path, []byte(line(1, "old")), 0o600)
	r.say("three")
	r.close()
	wantFile(t, dir, "old", "one", "two", "three")
}

// A clock that was set back: ids go on above the last one.
func TestTheClockIsSetBack(t *testing.T) {
	dir := t.TempDir()
	ahead := time.Now().Add(24 * time.Hour).UnixMicro()
	os.WriteFile(filepath.Join(dir, lobbyFile), []byte(line(ahead, "tomorrow")), 0o600)
	d, _ := openDir(t, dir, time.Hour)
	r := openRoom(t, d, "")
	r.say("today")
	if r.h.LastID() != ahead+1 || r.log.Expired(r.h, time.Now()) {
		t.Errorf("the last id is %d, want %d", r.h.LastID(), ahead+1)
	}
	r.close()
	openRoom(t, d, "").want("tomorrow", "today")
}

// Files of rooms that were silent for longer than keep are deleted at the start and each
// hour, but not those of rooms that are open, and no other files.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		put := func(name string, age time.Duration) {
			path := filepath.Join(dir, name)
			os.WriteFile(path, []byte(line(1, "old")), 0o600)
			os.Chtimes(path, time.Time{}, time.Now().Add(-age))
		}
		put("room-old.jsonl", 25*time.Hour)
		put("room-new.jsonl", 23*time.Hour+30*time.Minute)
		put("notes.jsonl", 1000*time.Hour)
		d, _ := openDir(t, dir, 24*time.Hour)
		want := func(names ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, pattern := range []string{"room*", "notes*", "lobby*"} {
				paths, _ := filepath.Glob(filepath.Join(dir, pattern))
				for _, path := range paths {
					got = append(got, filepath.Base(path))
				}
			}
			if !slices.Equal(got, names) {
				t.Errorf("files %q, want %q", got, names)
			}
		}
		want("room-new.jsonl", "notes.jsonl")
		open := openRoom(t, d, "new")
		time.Sleep(cleanInterval + time.Second)
		want("room-new.jsonl", "notes.jsonl") // it is open
		open.close()
		time.Sleep(cleanInterval + time.Second)
		want("notes.jsonl")
	})
}

// A file that was written to after it was looked at is not deleted, nor one that is in use.
func TestAFileThatIsWrittenToIsNotDeleted(t *testing.T) {
	dir := t.TempDir()
	d, _ := openDir(t, dir, 0)
	path := filepath.Join(dir, lobbyFile)
	os.WriteFile(path, []byte(line(1, "old")), 0o600)
	before := time.Now().Add(-time.Hour).Truncate(time.Second)
	if d.remove(lobbyFile, before) {
		t.Error("it was written to since, and is deleted")
	}
	os.Chtimes(path, time.Time{}, before)
	r := openRoom(t, d, "")
	if d.remove(lobbyFile, before) {
		t.Error("the room is open, and it is deleted")
	}
	r.want("old")
	r.close()
	if !d.remove(lobbyFile, before) {
		t.Error("it is not deleted")
	}
}

// A room that is open and was silent for keep is emptied, its file deleted.
func TestAnOpenRoomExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d, _ := openDir(t, dir, 24*time.Hour)
		r := openRoom(t, d, "")
		r.say("hello")
		last := r.h.LastID()
		time.Sleep(24*time.Hour + time.Second)
		if !r.log.Expired(r.h, time.Now()) {
			t.Fatal("it does not expire")
		}
		r.h = history.New(time.Now(), last)
		r.tick()
		if _, err := os.Stat(filepath.Join(dir, lobbyFile)); !os.IsNotExist(err) {
			t.Errorf("the file is still there: %v", err)
		}
		if r.log.Expired(r.h, time.Now()) {
			t.Error("it expires again")
		}
		r.say("again")
		r.close()
		wantFile(t, dir, "again")
	})
}

// There are at most maxFiles files; those of rooms that were silent longest go first.
// Starting with so many takes less than a second, on a busy machine at most twenty looks at
// all of them.
func TestMaxFiles(t *testing.T) {
	dir := t.TempDir()
	name := func(i int) string { return filepath.Join(dir, FileName(fmt.Sprint("r", i))) }
	for i := range maxFiles + 5 {
		if err := os.WriteFile(name(i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(name(i), time.Time{}, time.Now().Add(time.Duration(i-20_000)*time.Second))
	}
	begin := time.Now()
	for range 3 { // what one look at all files takes on this machine
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			e.Info()
		}
	}
	look := time.Since(begin) / 3
	begin = time.Now()
	d, _ := openDir(t, dir, 0)
	if took := time.Since(begin); took > max(time.Second, 20*look) {
		t.Errorf("starting took %v, a look at all files %v", took, look)
	}
	count := func() int {
		paths, _ := filepath.Glob(filepath.Join(dir, "room*"))
		return len(paths)
	}
	_, err := os.Stat(name(4))
	if _, ok := os.Stat(name(5)); count() != maxFiles || err == nil || ok != nil {
		t.Errorf("%d files, %v, %v", count(), err, ok)
	}
	r := openRoom(t, d, "one-more")
	r.say("hello")
	for deadline := time.Now().Add(10 * time.Second); count() > maxFiles && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Stat(name(5)); count() != maxFiles || err == nil {
		t.Errorf("%d files, %v", count(), err)
	}
	r.close()
}

// A thousand rooms are opened and closed, again and again, by many at a time: none loses
// anything, and none is in two hands. On fake time a busy machine's disk is not too slow.
func TestAThousandRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := openDir(t, t.TempDir(), 0)
		d.Wrap = func(f *os.File) File { return unsynced{f} }
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for i := range 125 * 3 {
					r := openRoom(t, d, fmt.Sprint("room", w*125+i%125))
					r.say(fmt.Sprint("visit ", i/125))
					r.leave()
				}
			})
		}
		all.Wait()
		for i := range 1000 {
			openRoom(t, d, fmt.Sprint("room", i)).want("visit 0", "visit 1", "visit 2")
		}
		if m.failures() > 0 {
			t.Errorf("%q", m.log)
		}
	})
}

// An unsynced file is not synced, which takes long.
type unsynced struct{ *os.File }

func (unsynced) Sync() error { return nil }

// Read returns what a room would continue with, and changes nothing.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	d, m := openDir(t, dir, time.Hour)
	read := func(name string) (texts []string) {
		t.Helper()
		entries, err := d.Read(name)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			message, _ := protocol.DecodeMessage(e.Payload)
			texts = append(texts, message.Text)
		}
		return texts
	}
	if got := read("team"); got != nil {
		t.Errorf("a room without a file has %q", got)
	}
	now := time.Now().UnixMicro()
	for content, want := range map[string][]string{
		"": nil,
		line(now, "one") + "garbage\n" + line(now+1, "two\nlines") + line(now+2, "three")[:20]: {"one", "two\nlines"},
		line(now-time.Hour.Microseconds()-1, "too old"):                                        nil,
	} {
		path := filepath.Join(dir, FileName("team"))
		os.WriteFile(path, []byte(content), 0o600)
		if got := read("team"); !slices.Equal(got, want) {
			t.Errorf("%q is read as %q, want %q", content, got, want)
		}
		if text, _ := os.ReadFile(path); string(text) != content {
			t.Errorf("%q was made %q", content, text)
		}
	}
	r := openRoom(t, d, "open")
	for i := range history.MaxMessages + 50 {
		r.say(fmt.Sprint(i))
	}
	if got := read("open"); !slices.Equal(got, r.texts()) {
		t.Errorf("%d messages are read, %d are kept", len(got), len(r.texts()))
	}
	r.close()
	os.Mkdir(filepath.Join(dir, FileName("folder")), 0o700)
	if got, err := d.Read("folder"); err == nil || m.failures() != 1 {
		t.Errorf("a directory is read as %d messages, %d failures", len(got), m.failures())
	}
	if got, err := (*Dir)(nil).Read("team"); got != nil || err != nil {
		t.Errorf("nothing is kept, and read as %v, %v", got, err)
	}
}

// While the disk does not answer, Read waits no longer than a room does, and leaves no
// goroutine behind but those that are stuck: the test would not end.
func TestReadWithAStuckDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := openDir(t, t.TempDir(), 0)
		for range maxReads {
			d.reads <- struct{}{} // as a read does that is stuck
		}
		var asking sync.WaitGroup
		for range 100 {
			asking.Go(func() {
				begin := time.Now()
				if _, err := d.Read("team"); err == nil || time.Since(begin) != diskTimeout {
					t.Errorf("%v after %v", err, time.Since(begin))
				}
			})
		}
		asking.Wait()
		synctest.Wait()
		if m.failures() != 100 {
			t.Errorf("%d failures", m.failures())
		}
	})
}

// FuzzOpen opens a file of any content, adds to it, and opens it again: it has the same
// messages and the new one, with increasing ids below 2^53.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(line(1, "one") + line(2, "two")))
	f.Add([]byte(line(1, "one") + "garbage\n" + line(2, "two")[:20]))
	f.Add([]byte(line(5, "one") + line(4, "two") + line(1<<53-2, "three") + "\n\r\n"))
	f.Add([]byte(`{"type":"message","id":3,"text":"x"}` + "\n" + `{"type":"message","id":-3,` + "\n"))
	f.Add([]byte(line(1, "\tone\n\ttwo") + line(2, "\n\r\u2028three\n")))
	dir := f.TempDir()
	d, m := openDir(f, dir, 0)
	d.Wrap = func(f *os.File) File { return unsynced{f} }
	f.Fuzz(func(t *testing.T, data []byte) {
		os.WriteFile(filepath.Join(dir, lobbyFile), data, 0o600)
		r := openRoom(t, d, "")
		defer r.close()
		want := r.texts()
		kept, gone := r.h.Kept()
		for _, e := range kept {
			if e.ID <= gone || e.ID > protocol.MaxID || len(e.Payload) >= protocol.MaxFrame {
				t.Errorf("%d after %d: %s", e.ID, gone, e.Payload)
			}
			gone = e.ID
		}
		if gone == protocol.MaxID {
			return // no id is left
		}
		r.say("new")
		r.close()
		again := openRoom(t, d, "")
		want = append(want, "new")
		again.want(want[max(0, len(want)-len(again.texts())):]...)
		if !slices.Contains(again.texts(), "new") || m.failures() > 0 {
			t.Errorf("%q %q", again.texts(), m.log)
		}
		again.close()
	})
}

// BenchmarkOpen opens a full room: a file of maxFile bytes.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	d, _ := openDir(b, dir, 0)
	r := openRoom(b, d, "")
	for r.log.size < maxFile-1000 {
		r.say("a line of the usual length, which is some sixty characters long")
	}
	r.close()
	for b.Loop() {
		r := openRoom(b, d, "")
		if r.h.LastID() < 1e15 {
			b.Fatal("nothing was read")
		}
		r.close()
	}
}

// BenchmarkCommit commits a message.
func BenchmarkCommit(b *testing.B) {
	d, _ := openDir(b, b.TempDir(), 0)
	r := openRoom(b, d, "")
	for b.Loop() {
		r.say("a line of the usual length, which is some sixty characters long")
	}
	r.close()
}
