package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"chat/internal/filelog"
	"chat/internal/history"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// History on disk: what a restart keeps, and what a bad disk does to rooms.

// keep is how long rooms may be silent in these tests.
const keep = 2 * time.Hour

// keptIn is an option: history is kept in a directory.
func keptIn(t *testing.T, dir string) func(*server) {
	return func(s *server) {
		if err := s.openHistory(dir, keep); err != nil {
			t.Fatal(err)
		}
	}
}

// Over a restart everything goes on: history, ids, resume positions, user ids, and a
// message that is sent again is not said again.
func TestARestartIsNotNoticed(t *testing.T) {
	for _, room := range []string{lobby, "team", "café"} {
		onFakeTime(t, "room "+room, func(t *testing.T) {
			dir := t.TempDir()
			query := "key=ada&name=Ada&room=" + room
			first := startChat(t, keptIn(t, dir))
			ada := first.joinV1(query)
			ada.say("one", "r1")
			ada.say("two", "r2")
			said := ada.take("message")
			before := ada.hello()
			first.stop()
			first.wantStopped()
			ada.wantClosed(1001, "the server is stopping")

			time.Sleep(time.Second)
			second := startChat(t, keptIn(t, dir))
			back := second.joinV1(query + fmt.Sprint("&after=", said[0].ID))
			hello := back.hello()
			if hello.Missed || hello.ID != said[1].ID || hello.From != before.From {
				t.Errorf("was greeted with %s, then with %s", before.Line, hello.Line)
			}
			if replay := back.take("message"); len(replay) != 1 || replay[0].Line != said[1].Line {
				t.Errorf("resumes with %+v, want %s", replay, said[1].Line)
			}
			newcomer := second.joinV1("room=" + room)
			newcomer.want("one", "two")
			back.say("two", "r2")
			if answer := back.take("message"); len(answer) != 1 || answer[0].Line != said[1].Line {
				t.Errorf("a repeat is answered with %+v", answer)
			}
			newcomer.want()
			back.say("three", "r3")
			newcomer.want("three")
			if e := back.take("message"); e[0].ID <= said[1].ID {
				t.Errorf("ids go on with %d after %d", e[0].ID, said[1].ID)
			}
			if hello := second.joinV1("room=" + room + "&after=1").hello(); !hello.Missed {
				t.Error("a client that may have missed something is not told")
			}
			time.Sleep(time.Second)
			second.wantMetrics(`chat_history_lines_total 1`, `chat_history_errors_total 0`, `chat_history_write_seconds_count 1`, `chat_history_sync_seconds_count 1`)
		})
	}
}

// A message of several lines is one line in the file, and comes back as it was.
func TestAMessageOfSeveralLinesIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		code := "\tif x {\n\t\treturn \"\\n\"\n\n\t}"
		first := startChat(t, keptIn(t, dir))
		ada, bob, classic := first.joinV1("key=ada"), first.joinV1(""), first.join("")
		ada.say("look:", "r1")
		ada.say(code, "r2")
		bob.want("look:", code)
		classic.want("look:", `if x {   return "\n"   }`)
		said := ada.take("message")
		first.stop()
		first.wantStopped()

		text, err := os.ReadFile(filepath.Join(dir, "lobby.jsonl"))
		if want := said[0].Line + "\n" + said[1].Line + "\n"; string(text) != want {
			t.Errorf("the file has %q, %v, want %q", text, err, want)
		}
		second := startChat(t, keptIn(t, dir))
		back := second.joinV1("key=ada")
		back.want("look:", code)
		back.say(code, "r2")
		if answer := back.take("message"); len(answer) != 1 || answer[0].Line != said[1].Line {
			t.Errorf("a repeat is answered with %+v", answer)
		}
	})
}

// A batch is in the file before anybody receives it.
func TestWhatIsReceivedIsInTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		chat := startChat(t, unlimited, keptIn(t, dir), func(s *server) {
			s.dir.Wrap = func(f *os.File) filelog.File { return slowFile{f, time.Second} }
		})
		ada, bob := chat.join(""), chat.joinV1("")
		chat.t.Cleanup(func() { time.Sleep(time.Minute) })
		for i := range 10 {
			ada.say(fmt.Sprint("line ", i))
			time.Sleep(100 * time.Millisecond)
		}
		for range 40 {
			received := bob.texts()
			text, _ := os.ReadFile(filepath.Join(dir, "lobby.jsonl"))
			for _, line := range received {
				if !strings.Contains(string(text), line) {
					t.Errorf("%q was received and is not in the file", line)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if lines := len(ada.texts()); lines != 10 {
			t.Errorf("%d of 10 lines were received", lines)
		}
	})
}

// What is taken at once is appended to the file, however much more it is than a room keeps.
func TestALongBatchIsAppended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, n := t.TempDir(), 2*history.MaxBytes/protocol.MaxText
		s := newServer(nil, 0, 1)
		keptIn(t, dir)(s)
		log := &localLog{history: history.New(time.Now(), 0), file: s.dir.Log(lobby, nil)}
		log.open()
		for range n {
			log.say(message{&Client{}, protocol.ClientMessage{Text: strings.Repeat("x", protocol.MaxText)}})
		}
		taken, _ := log.take()
		text, err := os.ReadFile(filepath.Join(dir, "lobby.jsonl"))
		if lines := strings.Count(string(text), "\n"); len(taken) != n || lines != n {
			t.Errorf("%d of %d messages are taken, and %d in the file: %v", len(taken), n, lines, err)
		}
		log.close()
		s.dir.Close(time.Second)
	})
}

// A slowFile takes some time for each write.
type slowFile struct {
	*os.File
	takes time.Duration
}

func (f slowFile) Write(b []byte) (int, error) {
	time.Sleep(f.takes)
	return f.File.Write(b)
}

// A disk that takes ten seconds for a write: the room goes on after two, others at once,
// newcomers come in, and a stop takes less than five.
func TestASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		dir := t.TempDir()
		chat := startChat(t, keptIn(t, dir), func(s *server) {
			s.dir.Wrap = func(f *os.File) filelog.File {
				if strings.HasSuffix(f.Name(), "lobby.jsonl") {
					return slowFile{f, 10 * time.Second}
				}
				return f
			}
		})
		ada, bob, carl := chat.join(""), chat.join(""), chat.join("room=team")
		ada.say("hello")
		time.Sleep(time.Second)
		bob.want()
		begin := time.Now()
		carl.say("over here")
		carl.want("over here")
		chat.join("room=new").say("and here")
		if took := time.Since(begin); took > 0 {
			t.Errorf("other rooms waited %v", took)
		}
		time.Sleep(1100 * time.Millisecond)
		bob.want("hello")
		ada.say("in memory")
		bob.want("in memory")
		newcomer := chat.joinV1("")
		newcomer.want("hello", "in memory")
		wantLogged(t, log, 1, "goes on in memory")
		chat.wantMetrics(`chat_history_errors_total 1`)
		chat.stop()
		chat.wantStopped() // in time
		bob.wantClosed(1001, "the server is stopping")
		time.Sleep(time.Minute)
	})
}

// A full disk, and then no longer.
func TestAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		dir := t.TempDir()
		blocked := filepath.Join(dir, "lobby.jsonl")
		os.Mkdir(blocked, 0o700) // in the way
		chat := startChat(t, keptIn(t, dir))
		ada := chat.joinV1("")
		ada.say("one")
		ada.say("two")
		ada.want("one", "two")
		wantLogged(t, log, 1, "goes on in memory")
		os.Remove(blocked)
		time.Sleep(2 * time.Second)
		text, _ := os.ReadFile(blocked)
		if strings.Count(string(text), "\n") != 2 || !strings.Contains(string(text), "two") {
			t.Errorf("the file is %q", text)
		}
		ada.say("three")
		ada.want("three")
		chat.stop()
		chat.wantStopped()
		startChat(t, keptIn(t, dir)).joinV1("").want("one", "two", "three")
	})
}

// A room that was let go is read again; the lobby does not forget.
func TestARoomThatWasLetGoIsReadAgain(t *testing.T) {
	for _, room := range []string{lobby, "team"} {
		onFakeTime(t, "room "+room, func(t *testing.T) {
			chat := startChat(t, keptIn(t, t.TempDir()))
			ada := chat.joinV1("room=" + room)
			ada.say("hello")
			last := ada.take("message")[0].ID
			ada.leave()
			time.Sleep(emptyRoomTTL + time.Second)
			chat.wantRooms(1)
			back := chat.joinV1(fmt.Sprintf("room=%s&after=%d", room, last))
			if hello := back.hello(); hello.Missed || hello.ID != last {
				t.Errorf("%+v", hello)
			}
			chat.joinV1("room=" + room).want("hello")
		})
	}
}

// A room that was silent for as long as -keep is emptied, while somebody is in it, too, and
// while somebody comes in.
func TestARoomExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		chat := startChat(t, keptIn(t, dir))
		ada := chat.joinV1("room=team")
		ada.say("hello")
		last := ada.take("message")[0].ID
		time.Sleep(keep)
		path := filepath.Join(dir, "room-team.jsonl")
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		var late []*person
		for range 20 {
			late = append(late, chat.joinV1("room=team"))
			time.Sleep(100 * time.Millisecond)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the file is still there: %v", err)
		}
		late[0].want("hello")
		late[19].want()
		if !chat.joinV1(fmt.Sprint("room=team&after=", last)).hello().Missed {
			t.Error("a client that comes back is not told that it may have missed something")
		}
		ada.take("")
		late[19].say("again")
		ada.want("again")
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	})
}

// A thousand rooms are walked through and come back to, with what was said in each.
func TestAThousandRoomsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, keptIn(t, t.TempDir()))
		for i := range maxRooms + 100 {
			p := chat.join(fmt.Sprint("room=room", i))
			p.say(fmt.Sprint("I was in ", i))
			p.want(fmt.Sprint("I was in ", i))
			p.leave()
			time.Sleep(time.Millisecond)
		}
		chat.wantRooms(maxRooms)
		for _, i := range []int{0, 50, maxRooms} {
			chat.joinV1(fmt.Sprint("room=room", i)).want(fmt.Sprint("I was in ", i))
		}
		chat.wantMetrics(`chat_history_errors_total 0`)
	})
}

// From here on the program as a process.

// A second process says that the directory is in use, and exits with status 1, as it does
// for one that it cannot use.
func TestTwoProcessesDoNotShareADirectory(t *testing.T) {
	dir := t.TempDir()
	first := start(t, self(t), "-addr", "127.0.0.1:0", "-history", dir)
	first.waitFor(t, `listening on (\S+)`)
	plain := filepath.Join(t.TempDir(), "plain")
	os.WriteFile(plain, nil, 0o600)
	for _, path := range []string{dir, plain} {
		status, stderr := start(t, self(t), "-addr", "127.0.0.1:0", "-history", path).exit()
		if status != 1 || !strings.Contains(stderr, path) || strings.Contains(stderr, "listening") {
			t.Errorf("status %d, %s", status, stderr)
		}
	}
	first.Process.Kill()
	first.exit()
	start(t, self(t), "-addr", "127.0.0.1:0", "-history", dir).waitFor(t, `listening on (\S+)`)
}

var kills = flag.Int("kills", 12, "how often TestKills kills the program")

// killPoints is how many places a life of the program has at which TestKills kills it: the
// places of a rewrite and two more writes, or of four writes.
const killPoints = 12

// A mortal file kills the process at one of the places before, inside and after what it does.
type mortalFile struct {
	*os.File
	left *atomic.Int32 // places until the end
}

// pass kills the process if this is the place.
func (f mortalFile) pass() {
	if f.left.Add(-1) == 0 {
		p, _ := os.FindProcess(os.Getpid())
		p.Kill()
		select {} // nothing follows
	}
}

func (f mortalFile) Write(b []byte) (int, error) {
	f.pass()
	half, err := f.File.Write(b[:len(b)/2])
	if err != nil {
		return half, err
	}
	f.pass()
	rest, err := f.File.Write(b[half:])
	f.pass()
	return half + rest, err
}

func (f mortalFile) Sync() error {
	f.pass()
	err := f.File.Sync()
	f.pass()
	return err
}

func (f mortalFile) Close() error { // of a rewritten file: before it is renamed
	err := f.File.Close()
	f.pass()
	return err
}

// mortalChat runs a chat whose history is in a directory, and which is killed at the place of
// this number that its files pass; 0 is none.
func mortalChat(dir string, point int) {
	s := newServer(nil, 0, 100)
	if err := s.openHistory(dir, 0); err != nil {
		log.Fatal(err)
	}
	left := new(atomic.Int32)
	left.Store(int32(point))
	s.dir.Wrap = func(f *os.File) filelog.File { return mortalFile{f, left} }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", l.Addr())
	log.Fatal(s.serve(context.Background(), l, nil))
}

// A server that talks is killed at every place of every write: before it, inside, and after
// it, when nobody has received what was written; every second time while it rewrites its
// file. What anybody received is in the file, a client that comes back misses nothing, and
// what it sends again is said once.
func TestKills(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lobby.jsonl")
	var (
		last     int64                // id that was received
		received = map[int64]string{} // texts by id
		outbox   []string             // sent and not received
		from     string
		sent     int
	)
	for kill := range *kills + 1 {
		point := 1 + 5*kill%killPoints
		if kill == *kills {
			point = 0
		}
		if (kill+kill/killPoints)%2 == 1 { // blank lines make the file so long that it is rewritten
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = f.Write(append([]byte{'\n'}, bytes.Repeat([]byte{'\n'}, 1<<20)...))
				f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		p := start(t, "env", fmt.Sprint("CHAT_TEST_KILL_AT=", point), "CHAT_TEST_HISTORY="+dir, self(t))
		conn, _, err := (&websocket.Dialer{Subprotocols: []string{protocol.Subprotocol}}).
			Dial(fmt.Sprintf("ws://%s/ws?key=ada&after=%d", p.waitFor(t, `listening on (\S+)`), last), nil)
		if err != nil {
			t.Fatal(err)
		}
		send := func(text string) {
			frame, _ := json.Marshal(map[string]string{"text": text, "ref": text})
			conn.WriteMessage(websocket.TextMessage, frame) // an error says that it was killed
		}
		for _, text := range outbox {
			send(text)
		}
		for lives := true; lives; {
			if len(outbox) == 0 {
				if point == 0 {
					break
				}
				for range 1 + sent%3 {
					sent++
					outbox = append(outbox, fmt.Sprint("line ", sent))
					send(outbox[len(outbox)-1])
				}
			}
			conn.SetReadDeadline(time.Now().Add(20 * time.Second)) // far more than it takes
			_, frame, err := conn.ReadMessage()
			if lives = err == nil; !lives {
				break
			}
			events, err := wstest.Events(protocol.ChatV1, frame)
			if err != nil {
				t.Error(err)
			}
			for _, e := range events {
				switch {
				case e.Type == "hello" && (e.Missed && last > 0 || from != "" && e.From != from):
					t.Errorf("after kill %d: %s", kill, e.Line)
				case e.Type == "hello":
					from = e.From
				case e.Type == "message":
					if text, ok := received[e.ID]; ok && text != e.Text {
						t.Errorf("%d was %q and is %q", e.ID, text, e.Text)
					}
					received[e.ID] = e.Text
					last = max(last, e.ID)
					outbox = slices.DeleteFunc(outbox, func(text string) bool { return text == e.Text })
				}
			}
		}
		conn.Close()
		if point == 0 {
			p.Process.Kill()
		}
		p.exit()
		checkKept(t, dir, received)
	}
	times := map[string]int{}
	for _, text := range received {
		if times[text]++; times[text] > 1 {
			t.Errorf("%q was said twice", text)
		}
	}
	if len(received) != sent || len(outbox) > 0 {
		t.Errorf("%d of %d lines were received", len(received), sent)
	}
	t.Logf("%d lines over %d kills", sent, *kills)
}

// checkKept fails the test unless the lobby's file has all that was received, as far as a
// history keeps it.
func checkKept(t *testing.T, dir string, received map[int64]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "lobby.jsonl"))
	if err != nil && len(received) > 0 {
		t.Fatal(err)
	}
	kept := map[int64]string{}
	for line := range strings.Lines(string(text)) {
		if m, err := protocol.DecodeMessage([]byte(line)); err == nil {
			kept[m.ID] = m.Text
		}
	}
	above := int64(0)
	if len(kept) >= history.MaxMessages {
		for id := range kept {
			if above == 0 || id < above {
				above = id
			}
		}
	}
	for id, text := range received {
		if id >= above && kept[id] != text {
			t.Errorf("%d %q was received and is not kept", id, text)
		}
	}
}

// A file system without room, as a limit to the size of files makes one: the room goes on,
// and the file has no half line.
func TestALimitOfTheSystem(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "sh", "-c", `ulimit -f 8 && exec "$0" -addr 127.0.0.1:0 -rate 0 -history "$1"`, self(t), dir)
	conn := dial(t, p.waitFor(t, `listening on (\S+)`))
	for i := range 100 {
		text := fmt.Sprint(i, strings.Repeat("x", 200))
		conn.WriteMessage(websocket.TextMessage, []byte(text))
		if _, frame, err := conn.ReadMessage(); string(frame) != text {
			t.Fatalf("%q, %v", frame, err)
		}
	}
	p.waitFor(t, "goes on in memory")
	p.Process.Signal(syscall.SIGTERM)
	drain(conn)
	if status, stderr := p.exit(); status != 0 {
		t.Errorf("status %d, %s", status, stderr)
	}
	text, _ := os.ReadFile(filepath.Join(dir, "lobby.jsonl"))
	if len(text) == 0 || text[len(text)-1] != '\n' {
		t.Errorf("the file has %d bytes and ends in %q", len(text), text[max(0, len(text)-20):])
	}
}
