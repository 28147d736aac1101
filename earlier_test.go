package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/filelog"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// GET /history: what was said before.

// earlier asks for the history, which must be answered with status 200, and returns its
// lines.
func (c *chat) earlier(query string) (lines []string) {
	c.t.Helper()
	resp, body := c.ask(wstest.PlainGet("chat.test", "/history?"+query))
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		c.t.Errorf("%q is answered with %s %v %q", query, resp.Status, resp.Header, body)
	}
	if len(body) != int(resp.ContentLength) || body != "" && !strings.HasSuffix(body, "\n") {
		c.t.Errorf("%q is answered with %d bytes, of %d announced: %q", query, len(body), resp.ContentLength, body)
	}
	return slices.Collect(strings.SplitSeq(strings.TrimSuffix(body, "\n"), "\n"))
}

// lines returns what was received and not yet taken, as it was spelled.
func (p *person) lines() (lines []string) {
	for _, e := range p.take("message") {
		lines = append(lines, e.Line)
	}
	return lines
}

// A client that asks for what is before the first message that it has receives all that is
// kept, a hundred messages at a time, each as it was said.
func TestEarlierMessages(t *testing.T) {
	for _, room := range []string{lobby, "team", "教室"} {
		onFakeTime(t, "room "+room, func(t *testing.T) {
			chat := startChat(t, unlimited)
			if got := chat.earlier("room=" + room); !slices.Equal(got, []string{""}) {
				t.Errorf("a room in which nothing was said has %q", got)
			}
			ada := chat.joinV1("name=Ada&room=" + room)
			for i := range 250 {
				ada.say(fmt.Sprint("line ", i), fmt.Sprint("r", i))
			}
			ada.say("of\n\ttwo lines")
			said := ada.lines()
			if len(said) != 251 {
				t.Fatalf("%d messages", len(said))
			}
			var all []string
			for before := ""; ; {
				got := chat.earlier("room=" + room + "&before=" + before)
				if slices.Equal(got, []string{""}) {
					break
				}
				if left := len(said) - len(all); len(got) != min(100, left) {
					t.Fatalf("%d messages at once, of %d", len(got), left)
				}
				all = append(got, all...)
				events, err := wstest.Events(protocol.ChatV1, []byte(all[0]))
				if err != nil {
					t.Fatal(err)
				}
				before = strconv.FormatInt(events[0].ID, 10)
			}
			if !slices.Equal(all, said) {
				t.Errorf("%d messages were kept that are not those that were said", len(all))
			}
			if got := chat.earlier(fmt.Sprintf("room=%s&before=%d", strings.ToUpper(room), protocol.MaxID)); !slices.Equal(got, said[151:]) {
				t.Errorf("before the largest id are %d messages", len(got))
			}
			if got := chat.earlier("before=0&room=" + room); !slices.Equal(got, []string{""}) {
				t.Errorf("before the id 0 is %q", got)
			}
		})
	}
}

// Nobody else may read or keep the answer, and HEAD has the same without the body.
func TestHeadersOfEarlierMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		chat.join("").say("hello")
		synctest.Wait()
		get, body := chat.ask(wstest.PlainGet("chat.test", "/history"))
		head, none := chat.ask(strings.Replace(wstest.PlainGet("chat.test", "/history"), "GET", "HEAD", 1))
		for name, want := range map[string]string{
			"Content-Type":                 "application/x-ndjson",
			"Content-Length":               strconv.Itoa(len(body)),
			"Cache-Control":                "no-store",
			"X-Content-Type-Options":       "nosniff",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Access-Control-Allow-Origin":  "",
		} {
			if got := []string{get.Header.Get(name), head.Header.Get(name)}; !slices.Equal(got, []string{want, want}) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if head.StatusCode != 200 || none != "" || body == "" {
			t.Errorf("HEAD: %s and %q, GET: %q", head.Status, none, body)
		}
	})
}

// What is asked for opens no room. One that is not open has no history without a file, and
// with one it has that.
func TestEarlierMessagesOfARoomThatIsNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		for i := range 50 {
			chat.earlier(fmt.Sprint("room=r", i))
		}
		chat.wantRooms(1)
	})
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first := startChat(t, unlimited, keptIn(t, dir))
		ada := first.joinV1("room=team")
		for i := range 600 {
			ada.say(fmt.Sprint("line ", i))
		}
		first.joinV1("").say("in the lobby")
		synctest.Wait()
		open, lobbyOpen := first.earlier("room=team"), first.earlier("")
		if said := ada.lines(); !slices.Equal(open, said[500:]) {
			t.Errorf("%d messages of the open room", len(open))
		}
		first.stop()
		first.wantStopped()

		file := filepath.Join(dir, "room-team.jsonl")
		text, _ := os.ReadFile(file)
		torn := append(slices.Clone(text), `{"type":"message","id":9`...)
		os.WriteFile(file, torn, 0o600)
		second := startChat(t, unlimited, keptIn(t, dir))
		if got := second.earlier("room=team"); !slices.Equal(got, open) {
			t.Errorf("%d messages of the room that is not open", len(got))
		}
		if got := second.earlier(""); !slices.Equal(got, lobbyOpen) {
			t.Errorf("the lobby, which is always open, has %q", got)
		}
		second.wantRooms(1)
		if now, _ := os.ReadFile(file); string(now) != string(torn) {
			t.Error("the file was changed")
		}

		time.Sleep(keep + time.Second) // and nobody has looked for files that are too old
		if got := second.earlier("room=team"); !slices.Equal(got, []string{""}) {
			t.Errorf("a room that was silent for too long has %d messages", len(got))
		}
	})
}

// A file that cannot be read is answered with 503, and told to the operator.
func TestEarlierMessagesThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		dir := t.TempDir()
		os.Mkdir(filepath.Join(dir, "room-team.jsonl"), 0o700)
		chat := startChat(t, keptIn(t, dir))
		resp, body := chat.ask(wstest.PlainGet("chat.test", "/history?room=team"))
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" || !strings.Contains(body, "cannot be read now") {
			t.Errorf("%s %v %q", resp.Status, resp.Header, body)
		}
		wantLogged(t, log, 1, "room-team.jsonl is not a file")
		chat.wantMetrics("chat_history_errors_total 1")
	})
}

// While a disk holds up a room, its history is answered when that is over, and that of
// other rooms at once.
func TestEarlierMessagesOfARoomWithASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited, keptIn(t, t.TempDir()), func(s *server) {
			s.dir.Wrap = func(f *os.File) filelog.File {
				if strings.HasSuffix(f.Name(), "lobby.jsonl") {
					return slowFile{f, time.Second}
				}
				return f
			}
		})
		t.Cleanup(func() { time.Sleep(time.Minute) })
		ada, bob := chat.join(""), chat.join("room=team")
		bob.say("quick")
		synctest.Wait()
		ada.say("slow")
		begin := time.Now()
		if got := chat.earlier("room=team"); len(got) != 1 || time.Since(begin) != 0 {
			t.Errorf("%q after %v", got, time.Since(begin))
		}
		if got := chat.earlier(""); !strings.Contains(got[0], `"text":"slow"`) || time.Since(begin) > 2*time.Second {
			t.Errorf("%q after %v", got, time.Since(begin))
		}
	})
}

// With -origin, a page of a host that is not listed may not read what was said, whether it
// names its origin or asks what it takes for its own host.
func TestWhoMayReadEarlierMessages(t *testing.T) {
	listed := []string{"chat.example", "other.example:8443"}
	synctest.Test(t, func(t *testing.T) {
		log := captureLog(t)
		chat := startChat(t, func(s *server) { s.origins = listed })
		chat.join("").say("secret")
		for _, request := range []string{
			wstest.PlainGet("rebound.test:8080", "/history"),
			wstest.PlainGet("chat.example", "/history", "Origin: http://rebound.test:8080"),
		} {
			time.Sleep(2 * time.Second)
			resp, body := chat.ask(request)
			if resp.StatusCode != 403 || !strings.Contains(body, `"http://rebound.test:8080" may not`) || strings.Contains(body, "secret") {
				t.Errorf("%s %q", resp.Status, body)
			}
		}
		wantLogged(t, log, 2, `a page of "http://rebound.test:8080"; to let it in, add its host to -origin`)
		chat.wantMetrics(`chat_refusals_total{reason="origin"} 2`)
	})
}

// A request costs its address as much as ten messages. Past its budget it is told when to
// come again, and other addresses notice nothing.
func TestEarlierMessagesHaveALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ask := func() int {
			resp, body := chat.ask(wstest.PlainGet("chat.test", "/history"))
			if wait := resp.Header.Get("Retry-After"); (resp.StatusCode == 503) != (wait == "1") || strings.Contains(body, "too often") != (wait == "1") {
				t.Errorf("%s %v %q", resp.Status, resp.Header, body)
			}
			return resp.StatusCode
		}
		for i := range 100 {
			if status := ask(); status != 200 {
				t.Fatalf("request %d: %d", i, status)
			}
		}
		if status := ask(); status != 503 {
			t.Errorf("one request more: %d", status)
		}
		ada := chat.joinV1("name=Ada")
		ada.say("waits for the budget of its address")
		ada.want()
		time.Sleep(100 * time.Millisecond)
		ada.want("waits for the budget of its address")
		chat.network.PeerAddr = "192.0.2.3:1234"
		chat.earlier("")
		chat.network.PeerAddr = "192.0.2.2:1234"
		time.Sleep(time.Second)
		if status := ask(); status != 200 {
			t.Errorf("after the time to come again: %d", status)
		}
		chat.wantMetrics(`chat_refusals_total{reason="history_limit"} 1`)
	})
	// However small -rate is, one request is possible, and then the next in time.
	for _, rate := range []float64{minRate, 0.3, 7} {
		synctest.Test(t, func(t *testing.T) {
			chat := startChat(t, func(s *server) { s.rate = rate })
			for range 3 {
				chat.earlier("")
				for {
					resp, _ := chat.ask(wstest.PlainGet("chat.test", "/history"))
					if resp.StatusCode == 200 {
						continue // of the burst
					}
					wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
					if wait < 1 || wait > 10 {
						t.Errorf("-rate %v: %s %v", rate, resp.Status, resp.Header)
					}
					time.Sleep(time.Duration(wait) * time.Second)
					break
				}
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		for range 300 {
			chat.earlier("")
		}
	})
}

// Requests from many addresses, for rooms that are open and that are not, leave nothing
// behind.
func TestEarlierMessagesLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first := startChat(t, keptIn(t, dir))
		first.join("").say("in the lobby")
		first.join("room=team").say("in the team")
		synctest.Wait()
		first.stop()
		first.wantStopped()
		chat := startChat(t, keptIn(t, dir))
		ask := func(address int) {
			for _, room := range []string{"", "team", "other"} {
				r := httptest.NewRequest("GET", "/history?room="+room, nil)
				r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1234", address/256, address%256)
				w := httptest.NewRecorder()
				if chat.serveHistory(w, r); w.Code != 200 || (w.Body.Len() == 0) != (room == "other") {
					t.Fatalf("%d %q", w.Code, w.Body)
				}
			}
		}
		askFrom := func(first int) {
			for address := range 2000 {
				ask(first + address)
			}
			time.Sleep(time.Minute)
			ask(0) // now addresses are forgotten that have all their budget again
		}
		askFrom(0)
		kept, _ := memoryOf(func() { askFrom(2000) })
		if kept > 200<<10 {
			t.Errorf("%d bytes are kept", kept)
		}
	})
}

// Requests for the history, of any room and at any pace, neither hold up those who talk nor
// lose anything, and each answer is what was said up to then.
func TestEarlierMessagesWhilePeopleTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		ada, bob := chat.joinV1("name=Ada"), chat.joinV1("name=Bob")
		var answers [][]string
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			for i := range 50 {
				answers = append(answers, chat.earlier(""))
				chat.earlier(fmt.Sprint("room=r", i))
			}
		}()
		for i := range 300 {
			ada.say(fmt.Sprint("line ", i))
			bob.say(fmt.Sprint("answer ", i))
		}
		<-asked
		said := ada.lines()
		if !slices.Equal(said, bob.lines()) || len(said) != 600 {
			t.Errorf("%d lines were received", len(said))
		}
		all := strings.Join(said, "\n")
		for _, lines := range answers {
			if !strings.Contains(all, strings.Join(lines, "\n")) {
				t.Errorf("an answer of %d lines is not what was said", len(lines))
			}
		}
	})
}
