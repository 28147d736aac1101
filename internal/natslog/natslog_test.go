package natslog_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/history"
	"chat/internal/natslog"
	"chat/internal/natstest"
	"chat/internal/presence"
	"chat/internal/protocol"
)

// server is a Stream, and what its Monitor was told.
type server struct {
	*natslog.Stream
	t    *testing.T
	conn *natstest.Conn

	mu     sync.Mutex
	log    []string
	counts map[string]int
}

// start starts a server, which is closed when the test ends.
func start(t *testing.T, nats *natstest.NATS) *server {
	s := &server{t: t, conn: nats.Connect(), counts: make(map[string]int)}
	s.Stream = natslog.OpenOn(s.conn, natslog.Options{Replicas: 3, Keep: time.Hour, MaxBytes: 1 << 30}, s)
	t.Cleanup(s.Close)
	time.Sleep(100 * time.Millisecond)
	return s
}

// Close closes the stream.
func (s *server) Close() { s.Stream.Close(time.Second) }

func (s *server) Logf(_, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *server) count(what string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what] += n
}

func (s *server) Published(time.Duration) { s.count("published", 1) }
func (s *server) Repeated()               { s.count("repeated", 1) }
func (s *server) Fetched(n int)           { s.count("fetched", n) }
func (s *server) Gap()                    { s.count("broke", 1) }
func (s *server) Unreadable(n int)        { s.count("unreadable", n) }

// wantLogged fails the test unless the log has part n times.
func (s *server) wantLogged(n int, part string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if log := strings.Join(s.log, "\n"); strings.Count(log, part) != n {
		s.t.Errorf("%q is not %d times in the log:\n%s", part, n, log)
	}
}

// wantCount fails the test unless something happened n times.
func (s *server) wantCount(what string, n int) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts[what] != n {
		s.t.Errorf("%s: %d times, want %d", what, s.counts[what], n)
	}
}

// room is a Log, as a hub uses it.
type room struct {
	*natslog.Log
	t     *testing.T
	said  int
	heard []natslog.StoredLine // since the room began
	start *natslog.Snapshot
	lost  []string // reasons
}

// join opens a room.
func (s *server) join(name string) *room {
	r := &room{Log: s.Log(name), t: s.t}
	s.t.Cleanup(r.Close)
	r.settle(100 * time.Millisecond)
	return r
}

// settle lets time pass, in which the room takes what comes.
func (r *room) settle(d time.Duration) {
	end := time.After(d)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-r.Ready():
		case <-ticker.C:
		case <-end:
			return
		}
		taken := r.Take()
		if taken.Lost != nil {
			r.lost = append(r.lost, taken.Lost.Reason)
		}
		if taken.Snapshot != nil {
			r.start, r.heard = taken.Snapshot, nil
		}
		r.heard = append(r.heard, taken.Lines...)
	}
}

// say says lines as one turn, each with a ref of its own.
func (r *room) say(texts ...string) {
	for _, text := range texts {
		r.said++
		r.Say(natslog.Line{UserID: "user", Text: text, ClientMsgID: fmt.Sprint(r.said)}, r.said)
	}
	r.Publish()
}

// texts returns what was heard, without repeats.
func (r *room) texts() (texts []string) {
	for _, h := range r.heard {
		if !h.Repeat {
			texts = append(texts, h.Text)
		}
	}
	return texts
}

// want fails the test unless exactly these texts were heard since the room began, under
// increasing ids.
func (r *room) want(texts ...string) {
	r.t.Helper()
	if got := r.texts(); !slices.Equal(got, texts) {
		r.t.Errorf("heard %.300q, want %.300q", got, texts)
	}
	if !slices.IsSortedFunc(r.heard, func(a, b natslog.StoredLine) int { return int(a.ID - b.ID) }) {
		r.t.Error("ids do not increase")
	}
}

// startTexts returns what the room begins with.
func (r *room) startTexts() (texts []string) {
	for _, m := range r.start.Messages {
		texts = append(texts, m.Text)
	}
	return texts
}

// onFakeTime runs a test in a bubble.
func onFakeTime(t *testing.T, test func(t *testing.T, nats *natstest.NATS)) {
	synctest.Test(t, func(t *testing.T) {
		nats := natstest.New()
		nats.SetLatency(time.Millisecond)
		test(t, nats)
	})
}

// The stream is made as the settings say, and taken as it is if somebody made it otherwise.
func TestTheStreamIsMade(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		made := time.Now().Add(2 * time.Millisecond) // it was asked for before
		one := start(t, nats)
		for name, want := range map[string]string{
			"CHAT": `{"name":"CHAT","subjects":["chat.\u003e"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":1073741824,` +
				`"discard":"old","max_age":3600000000000,"max_msgs_per_subject":3000,"max_msg_size":-1,"storage":"file","num_replicas":3,` +
				`"compression":"none","first_seq":` + fmt.Sprint(made.UnixMilli()) + `,"republish":{"src":"chat.\u003e","dest":"said.\u003e"},` +
				`"allow_direct":true,"mirror_direct":false,"consumer_limits":{},"allow_msg_ttl":false}`,
			"KV_chat": `{"name":"KV_chat","subjects":["$KV.chat.\u003e"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":1048576,` +
				`"discard":"new","max_age":0,"max_msgs_per_subject":1,"max_msg_size":-1,"storage":"file","num_replicas":3,"deny_delete":true,` +
				`"allow_rollup_hdrs":true,"compression":"none","allow_direct":true,"mirror_direct":false,"consumer_limits":{},"allow_msg_ttl":false}`,
		} {
			if got := nats.Config(name); got != want {
				t.Errorf("made %s, want %s", got, want)
			}
		}
		other := &server{t: t, conn: nats.Connect(), counts: make(map[string]int)}
		other.Stream = natslog.OpenOn(other.conn, natslog.Options{Replicas: 1}, other)
		t.Cleanup(other.Close)
		time.Sleep(time.Second)
		one.wantLogged(1, "was made")
		other.wantLogged(1, "is used as it is, without max_age 0s, as -keep says")
		if one.Secret() != other.Secret() {
			t.Error("the servers have different secrets")
		}
		nats.Delete("CHAT")
		strange := &natslog.Message{Subject: "$JS.API.STREAM.CREATE.CHAT", Data: []byte(`{"name":"CHAT","subjects":["chat.>","other"],"storage":"memory","discard":"new","max_msg_size":1000}`)}
		if _, err := one.conn.Request(t.Context(), strange); err != nil {
			t.Error(err)
		}
		start(t, nats).wantLogged(1, "is used as it is, without file storage, the subject chat.> alone, allow_direct, republish from chat.> to said.>, "+
			"max_msgs_per_subject 3000, discard old, max_msg_size 131072 or more, max_age 1h0m0s, as -keep says, 3 replicas")
	})
}

// Servers that start at the same moment, while those who are asked lag, agree on a secret.
func TestTheSecretIsShared(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		nats.Lag(1)
		var servers []*server
		for range 3 {
			s := &server{t: t, conn: nats.Connect(), counts: make(map[string]int)}
			s.Stream = natslog.OpenOn(s.conn, natslog.Options{Replicas: 1}, s)
			t.Cleanup(s.Close)
			servers = append(servers, s)
		}
		time.Sleep(time.Second)
		nats.Lag(0)
		time.Sleep(10 * time.Second)
		for _, s := range servers {
			if s.Secret() == [32]byte{} || s.Secret() != servers[0].Secret() {
				t.Error("the servers have different secrets, or none")
			}
		}
	})
}

// Without allow_direct the leader is asked for each turn.
func TestWithoutDirectAnswers(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		nats.RefuseDirect("CHAT")
		one := start(t, nats)
		ada := one.join("")
		for _, text := range []string{"one", "two", "three"} {
			nats.LoseSaid(1)
			ada.say(text)
			ada.settle(3 * time.Second)
		}
		ada.want("one", "two", "three")
		asked := nats.Asked("$JS.API.STREAM.MSG.GET.CHAT")
		ada.settle(10 * time.Second)
		if n := nats.Asked("$JS.API.STREAM.MSG.GET.CHAT") - asked; n > 20 { // twice a second
			t.Errorf("asked %d times in ten quiet seconds", n)
		}
		late := start(t, nats).join("")
		late.settle(time.Second)
		if late.start == nil || len(late.start.Messages) != 3 {
			t.Error("the room cannot be read")
		}
	})
}

// A stream that is gone with the bucket beside it gets the secret again from who has it, so that a
// server that starts later has the same.
func TestTheSecretOutlivesTheStream(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		nats.Delete("KV_chat")
		nats.Delete("CHAT")
		time.Sleep(10 * time.Second)
		if start(t, nats).Secret() != one.Secret() {
			t.Error("the server that started later has another secret")
		}
		config := nats.Config("CHAT")
		ada := one.join("")
		ada.say("before")
		ada.settle(time.Second)
		nats.Delete("KV_chat")
		nats.Delete("CHAT")
		if _, err := one.conn.Request(t.Context(), &natslog.Message{Subject: "$JS.API.STREAM.CREATE.CHAT", Data: []byte(config)}); err != nil {
			t.Fatal(err)
		}
		ada.say("after") // under the same number
		ada.settle(10 * time.Second)
		if start(t, nats).Secret() != one.Secret() {
			t.Error("after a stream with the same numbers, the server that started later has another secret")
		}
		nats.Delete("KV_chat")
		two := start(t, nats)
		nats.Delete("CHAT")
		time.Sleep(10 * time.Second)
		one.wantLogged(1, "other servers have another secret")
		two.wantLogged(0, "another secret")
	})
}

// Whatever becomes of answers, connections and the engine, what is said is stored and heard
// once, in the order in which it was said.
func TestNothingIsLostOrDoubled(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one, two := start(t, nats), start(t, nats)
		ada, bob := one.join(""), two.join("")
		faults := []func(){
			func() { nats.LoseAcks(3) },
			func() { nats.LoseSaid(3) },
			func() {
				nats.LoseAcks(1)
				nats.SetAway(true)
				time.AfterFunc(5*time.Second, func() { nats.SetAway(false) })
			},
			func() { one.conn.SetCut(true); time.AfterFunc(5*time.Second, func() { one.conn.SetCut(false) }) },
			func() { two.conn.SetCut(true); time.AfterFunc(5*time.Second, func() { two.conn.SetCut(false) }) },
			func() { nats.SetFull(true); time.AfterFunc(3*time.Second, func() { nats.SetFull(false) }) },
			func() { nats.SetLeaderless(true); time.AfterFunc(3*time.Second, func() { nats.SetLeaderless(false) }) },
			func() { nats.Lag(2); nats.LoseSaid(2); time.AfterFunc(3*time.Second, func() { nats.Lag(0) }) },
		}
		var said []string
		for i, fault := range faults {
			fault()
			for n := range 30 {
				text := fmt.Sprint(i, ".", n)
				said = append(said, text)
				ada.say(text)
				ada.settle(20 * time.Millisecond)
			}
			var wg sync.WaitGroup
			wg.Go(func() { ada.settle(15 * time.Second) })
			wg.Go(func() { bob.settle(15 * time.Second) })
			wg.Wait()
			ada.want(said...)
			bob.want(said...)
		}
		if ada.Pending() != 0 || one.UnackedTurns() != 0 {
			t.Error("a turn is still under way")
		}
		for i, h := range ada.heard {
			if h.Sender != i+1 {
				t.Fatalf("line %d is %v's", i+1, h.Sender)
			}
		}
	})
}

// A turn whose acknowledgement was lost before an outage longer than the engine remembers is
// stored twice, and heard once.
func TestATurnIsStoredTwiceAndHeardOnce(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one, two := start(t, nats), start(t, nats)
		ada, bob := one.join(""), two.join("")
		nats.LoseAcks(1)
		nats.LoseSaid(1)
		ada.Say(natslog.Line{UserID: "classic", Text: "hello"}, nil) // without an id of the client's own
		ada.Publish()
		ada.settle(5 * time.Millisecond)
		nats.SetAway(true)
		ada.settle(3 * time.Minute)
		nats.SetAway(false)
		ada.settle(5 * time.Second)
		bob.settle(5 * time.Second)
		if n := len(nats.Stored("CHAT", "chat.lobby")); n != 2 {
			t.Errorf("stored %d times, want 2", n)
		}
		ada.want("hello")
		bob.want("hello")
		start(t, nats).join("").settle(time.Second)
		if late := start(t, nats).join(""); len(late.start.Messages) != 1 {
			t.Errorf("read %d messages, want 1", len(late.start.Messages))
		}
	})
}

// One turn is under way at a time; what is said meanwhile is the next, up to its bounds.
func TestTurnsAreBounded(t *testing.T) {
	for _, long := range []bool{false, true} {
		onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
			one := start(t, nats)
			ada := one.join("")
			text := "hello"
			if long {
				text = strings.Repeat("\"\\", 2000)
			}
			ada.say(text)
			said := 1
			for !ada.IsFull() {
				ada.say(text)
				said++
			}
			synctest.Wait()
			if one.UnackedTurns() != 1 || said > 901 || !long && said != 901 {
				t.Errorf("%d turns are under way, %d lines were said", one.UnackedTurns(), said)
			}
			ada.settle(time.Second)
			stored := nats.Stored("CHAT", "chat.lobby")
			if len(stored) != 2 || len(stored[1]) > 128<<10 || long && len(stored[1]) < 100<<10 {
				t.Errorf("%d turns, the last of %d bytes", len(stored), len(stored[len(stored)-1]))
			}
			if len(ada.texts()) != said {
				t.Errorf("heard %d of %d lines", len(ada.texts()), said)
			}
		})
	}
}

// What does not come by itself is fetched: at once if something after it comes, else a
// second later, though the node that is asked lags.
func TestWhatDoesNotComeIsFetched(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		ada := one.join("")
		nats.LoseSaid(1)
		ada.say("one")
		ada.settle(100 * time.Millisecond)
		ada.want()
		ada.settle(time.Second)
		ada.want("one")
		one.wantCount("broke", 0)
		one.wantCount("fetched", 1)

		other := start(t, nats).join("other")
		nats.LoseSaid(1)
		other.say("elsewhere")
		other.settle(10 * time.Millisecond)
		nats.Lag(1)
		time.AfterFunc(200*time.Millisecond, func() { nats.Lag(0) })
		ada.say("two")
		ada.settle(500 * time.Millisecond)
		ada.want("one", "two")
		one.wantCount("broke", 1)
		one.wantCount("fetched", 3)
		if one.conn.Reconnects() > 0 {
			t.Error("another node was looked for")
		}
	})
}

// putNumbered has a room store so many turns that nobody hears of, each of one line: a number
// from first on.
func putNumbered(nats *natstest.NATS, room string, first, count int) {
	for n := first; n < first+count; n++ {
		nats.Put("CHAT", "chat."+room, fmt.Sprint("x.", n+1), fmt.Appendf(nil, `{"time":"2026-01-02T03:04:05.678Z","lines":[{"from":"f","text":"%d"}]}`, n))
	}
}

// wantWhole checks that no message is missing in what the room begins with, up to a number.
func (r *room) wantWhole(last int) {
	r.t.Helper()
	if r.start == nil {
		r.t.Fatal("the room is not read")
	}
	messages := r.start.Messages
	for i, m := range messages {
		if want := fmt.Sprint(last + 1 - len(messages) + i); m.Text != want {
			r.t.Fatalf("message %d of %d is %q, want %q", i, len(messages), m.Text, want)
		}
	}
	if messages[0].ID <= r.start.GoneID || r.start.GoneID < messages[0].ID-1000 {
		r.t.Errorf("the first message is %d, and up to %d some may be missing", messages[0].ID, r.start.GoneID)
	}
}

// A server was away while more was said in a room than the stream keeps: its rooms are read again,
// and who is in them has to ask what it missed.
func TestMoreWasSaidThanIsKept(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		putNumbered(nats, "lobby", 0, 10)
		ada := one.join("")
		ada.settle(time.Second)
		ada.wantWhole(9)
		one.conn.SetCut(true)
		putNumbered(nats, "lobby", 10, 3100)
		time.Sleep(5 * time.Second)
		one.conn.SetCut(false)
		ada.settle(5 * time.Second)
		if !slices.Equal(ada.lost, []string{"the chat's log is out of reach"}) {
			t.Errorf("told %q", ada.lost)
		}
		ada.wantWhole(3109)
		ada.want()
		one.wantLogged(1, "no longer has all")
		ada.say("and now?")
		ada.settle(100 * time.Millisecond)
		ada.want("and now?")
	})
}

// While a room is read, more is said in it than the stream keeps.
func TestMoreIsSaidThanIsKeptWhileARoomIsRead(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		time.Sleep(time.Second)
		putNumbered(nats, "room.busy", 0, 600)
		time.Sleep(2 * time.Second)
		nats.SetPace(10 * time.Millisecond)
		ada := one.join("busy")
		time.Sleep(2 * time.Second) // the first 500 are being read
		putNumbered(nats, "room.busy", 600, 3500)
		ada.settle(5 * time.Minute)
		ada.wantWhole(4099)
	})
}

// A room is not read from a leader that has less than the server has heard.
func TestANewLeaderLacksTheLast(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		two := start(t, nats).join("")
		two.say("hello")
		two.settle(100 * time.Millisecond)
		nats.LagLeader(1)
		ada := one.join("")
		ada.settle(1500 * time.Millisecond)
		if ada.start != nil {
			t.Errorf("the room begins with %v", ada.start.Messages)
		}
		nats.LagLeader(0)
		ada.settle(time.Second)
		if ada.start == nil || len(ada.start.Messages) != 1 {
			t.Error("the room does not begin with what was said")
		}
	})
}

// A node that answers slowly is waited for as long as something comes, and what came before it
// falls silent is not read again.
func TestAnAnswerTakesLong(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		for n := range 20 {
			nats.Put("CHAT", "chat.lobby", fmt.Sprint("x.", n+1), []byte(`{"time":"2026-01-02T03:04:05.678Z","lines":[{"from":"f","text":"hello"}]}`))
		}
		nats.SetPace(time.Second)
		nats.LoseFetched(10)
		ada := one.join("")
		asked := nats.Asked("$JS.API.DIRECT.GET.CHAT")
		ada.settle(30 * time.Second)
		if ada.start == nil || len(ada.start.Messages) != 20 {
			t.Errorf("the room is not read in half a minute")
		}
		if n := nats.Asked("$JS.API.DIRECT.GET.CHAT") - asked; n > 15 { // ten of them by the server that looks for more
			t.Errorf("asked %d times", n)
		}
	})
}

// A message may be published with fields of the header that the stream adds by itself: they are
// lies, and stop nobody from reading.
func TestHeadersThatLie(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		ada := one.join("")
		lie := &natslog.Message{Subject: "chat.lobby", Header: map[string][]string{"Nats-Stream": {"OTHER"}, "Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"1"}}}
		for _, isHeard := range []bool{true, false} {
			if !isHeard {
				nats.LoseSaid(1) // it is fetched
			}
			if _, err := one.conn.Request(t.Context(), lie); err != nil {
				t.Fatal(err)
			}
			ada.settle(2 * time.Second)
		}
		ada.say("hello")
		ada.settle(2 * time.Second)
		ada.want("hello")
		late := start(t, nats).join("")
		late.settle(time.Second)
		if late.start == nil || len(late.start.Messages) != 1 {
			t.Error("the room cannot be read")
		}
	})
}

// A part of an answer with several turns is lost, any of its messages: it is fetched again.
func TestAPartOfAnAnswerIsLost(t *testing.T) {
	for number := 1; number <= 4; number++ { // the fourth is its end
		onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
			ada := start(t, nats).join("")
			for i, text := range []string{"one", "two", "three"} {
				nats.Put("CHAT", "chat.lobby", fmt.Sprint("x.", i+1), fmt.Appendf(nil, `{"time":"2026-01-02T03:04:05.678Z","lines":[{"from":"f","text":%q}]}`, text))
			}
			nats.LoseFetched(number)
			ada.settle(5 * time.Second)
			ada.want("one", "two", "three")

			nats.LoseFetched(number)
			late := start(t, nats).join("") // it reads the room
			late.settle(5 * time.Second)
			if n := len(late.start.Messages); n != 3 {
				t.Errorf("message %d of an answer is lost, and the room begins with %d lines", number, n)
			}
		})
	}
}

// Each room that waits for a turn of another room is told when that is read.
func TestRoomsThatWaitAreTold(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		first, second, busy := one.join("first"), one.join("second"), one.join("busy")
		next := (int64(nats.Last("CHAT")) + 1) * 1000
		if first.Admits(next, first.Arrival()) || second.Admits(next+1000, second.Arrival()) {
			t.Error("a room waits for nothing")
		}
		for i, r := range []*room{first, second} {
			busy.say("hello")
			busy.settle(10 * time.Millisecond)
			select {
			case <-r.Ready():
			default:
				t.Errorf("room %d is not told", i)
			}
			if !r.Admits(next+int64(i)*1000, r.Arrival()) {
				t.Errorf("room %d waits for what is read", i)
			}
		}
	})
}

// A room that is opened is read to its end, though the node that is asked lags, and goes on
// from there without a gap.
func TestARoomIsRead(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		ada := one.join("team")
		other := one.join("other")
		var said []string
		for i := range 700 {
			said = append(said, fmt.Sprint(i))
			ada.say(said[i])
			ada.settle(10 * time.Millisecond)
			if i == 100 {
				other.say("hello")
			}
		}
		nats.Lag(3)
		time.AfterFunc(time.Second, func() { nats.Lag(0) })
		two := start(t, nats)
		bob := two.join("team")
		if bob.start != nil {
			t.Error("the room was opened without its end")
		}
		ada.say("live")
		ada.settle(time.Second)
		bob.settle(2 * time.Second)
		if bob.start == nil || len(bob.start.Messages) != history.MaxMessages {
			t.Fatalf("the room begins with %+.200v", bob.start)
		}
		var texts []string
		for _, m := range bob.start.Messages {
			texts = append(texts, m.Text)
		}
		texts = append(texts, bob.texts()...)
		if want := append(said, "live"); !slices.Equal(texts, want[len(want)-len(texts):]) || len(texts) < history.MaxMessages {
			t.Errorf("read %d messages, from %s to %s", len(texts), texts[0], texts[len(texts)-1])
		}
		if gone := bob.start.Messages[0].ID; bob.start.GoneID >= gone || bob.start.GoneID < gone-1000 {
			t.Errorf("gone is %d, and the first is %d", bob.start.GoneID, gone)
		}
		kept, err := two.Kept(t.Context(), "other")
		if err != nil || len(kept.Messages) != 1 || kept.GoneID >= kept.Messages[0].ID {
			t.Errorf("the other room has %+v, %v", kept, err)
		}
		for range 50 {
			other.say(strings.Repeat("x", protocol.MaxText))
			other.settle(10 * time.Millisecond)
		}
		kept, err = two.Kept(t.Context(), "other")
		if err != nil || len(kept.Messages) != history.MaxBytes/protocol.MaxText || kept.GoneID >= kept.Messages[0].ID || kept.GoneID < kept.Messages[0].ID-1000 {
			t.Errorf("after long messages the other room has %d messages after %d, %v", len(kept.Messages), kept.GoneID, err)
		}
		nobody, err := two.Kept(t.Context(), "nobody")
		if err != nil || len(nobody.Messages) != 0 {
			t.Errorf("nobody's room has %+v, %v", nobody, err)
		}
	})
}

// However many rooms are read that are not open, one that is opened does not wait for them.
func TestOpeningDoesNotWaitForReading(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		one.join("other").say("hello")
		time.Sleep(100 * time.Millisecond)
		nats.SetLatency(500 * time.Millisecond)
		for range 100 {
			go one.Kept(t.Context(), "other")
		}
		time.Sleep(10 * time.Millisecond)
		team := one.join("team")
		team.settle(3 * time.Second)
		if team.start == nil {
			t.Error("the room is not open")
		}
		time.Sleep(time.Minute) // until all are read
	})
}

// A room is opened though its last turns are deleted while it is read.
func TestARoomIsDeletedWhileItIsRead(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		ada := one.join("team")
		ada.say("hello")
		ada.settle(100 * time.Millisecond)
		nats.Lag(1)
		bob := start(t, nats).join("team")
		nats.Purge("CHAT")
		nats.Lag(0)
		bob.settle(time.Second)
		if bob.start == nil || len(bob.start.Messages) > 0 {
			t.Errorf("the room begins with %+v", bob.start)
		}
	})
}

// Who resumes after what the stream no longer has is told; who resumes after what is there
// is not.
func TestWhatIsGone(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		quiet, busy := one.join("quiet"), one.join("busy")
		first := int64(nats.Last("CHAT")) * 1000
		quiet.say("hello")
		quiet.settle(10 * time.Millisecond)
		for i := range 3100 {
			nats.Put("CHAT", "chat.room.busy", fmt.Sprint("x.", i+1), []byte(`{"time":"2026-01-02T03:04:05.678Z","lines":[]}`))
		}
		busy.settle(3 * time.Second)
		one.wantCount("unreadable", 3000) // those that were still there
		two := start(t, nats)
		if gone := two.join("quiet").start.GoneID; gone > first+999 {
			t.Errorf("the quiet room lacks what was said before %d, and begins after %d", gone, first)
		}
		if gone, want := two.join("busy").start.GoneID, first+101_000; gone < want || gone > want+1000 {
			t.Errorf("the busy room lacks what was said before %d, want %d", gone, want)
		}
		nats.Purge("CHAT")
		time.Sleep(3 * time.Second)
		three := start(t, nats)
		empty := three.join("quiet")
		if want := int64(nats.Last("CHAT"))*1000 + 999; empty.start.GoneID != want || empty.EndID() != want {
			t.Errorf("a purged room lacks what was said before %d and ends at %d, want %d", empty.start.GoneID, empty.EndID(), want)
		}
	})
}

// A stream that is gone is made again, once, by whichever server finds it so; one that ends
// below what was read counts as replaced only if it does so three times running.
func TestTheStreamIsReplaced(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one, two := start(t, nats), start(t, nats)
		ada, bob := one.join(""), two.join("")
		ada.say("before")
		ada.settle(time.Second)
		last := ada.EndID()
		nats.Delete("CHAT")
		ada.say("not lost")
		ada.settle(6 * time.Second)
		bob.settle(6 * time.Second)
		if want := []string{"the chat's log was replaced"}; !slices.Equal(ada.lost, want) || !slices.Equal(bob.lost, want) {
			t.Errorf("told %q and %q", ada.lost, bob.lost)
		}
		for _, r := range []*room{ada, bob} {
			all := r.texts()
			for _, m := range slices.Backward(r.start.Messages) {
				all = append([]string{m.Text}, all...)
			}
			if !slices.Equal(all, []string{"not lost"}) || r.EndID() <= last {
				t.Errorf("the room has %q and ends at %d after %d", all, r.EndID(), last)
			}
		}
		ada.lost = nil
		ada.say("a", "b")
		ada.settle(time.Second)
		ada.say("c")
		ada.settle(100 * time.Millisecond)
		nats.Cut("CHAT", 1)
		ada.settle(1500 * time.Millisecond)
		if len(ada.lost) > 0 {
			t.Errorf("told %q after a look or two", ada.lost)
		}
		ada.settle(3 * time.Second)
		if len(ada.lost) != 1 || len(ada.start.Messages) != 3 {
			t.Errorf("told %q; the room has %d messages", ada.lost, len(ada.start.Messages))
		}
		if end := ada.EndID(); ada.IsLost(end) || !ada.IsLost(end+1) || !ada.IsLost(end+1000) || ada.IsLost(end+1001) {
			t.Error("other turns are lost than the last")
		}
		ada.say("on")
		ada.settle(time.Second)
		ada.want("on")

		nats.SetLatency(200 * time.Millisecond)
		nats.Delete("CHAT")
		ada.lost = nil
		for len(ada.lost) == 0 {
			ada.settle(10 * time.Millisecond)
		}
		if ada.Admits(0, ada.Arrival()) {
			t.Error("a newcomer is let in before the other stream is read")
		}
		ada.settle(5 * time.Second)
		if !ada.Admits(0, ada.Arrival()) {
			t.Error("a newcomer is not let in")
		}
	})
}

// The stream has lost its end, as after a power cut, and has grown beyond it before anybody
// looked three times. That is noticed by what comes under numbers that were read before, and
// by what is stored under the last of them now.
func TestTheStreamGoesBackwardsAndGrowsAgain(t *testing.T) {
	for _, isHeard := range []bool{true, false} {
		onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
			one, two := start(t, nats), start(t, nats)
			ada, bob := one.join(""), two.join("")
			for i := range 5 {
				ada.say(fmt.Sprint(i))
				ada.settle(100 * time.Millisecond)
			}
			bob.settle(100 * time.Millisecond)
			kept, gone := ada.heard[1].ID, []int64{ada.heard[2].ID, ada.heard[4].ID}
			bob.said = ada.said
			nats.Cut("CHAT", 3)
			one.conn.SetCut(!isHeard)
			for _, text := range []string{"a", "b", "c", "d"} {
				bob.say(text)
				bob.settle(50 * time.Millisecond)
				if isHeard {
					ada.settle(2 * time.Second) // nothing is noticed twice
				}
			}
			one.conn.SetCut(false)
			ada.settle(3 * time.Second)
			bob.settle(3 * time.Second)
			for _, r := range []*room{ada, bob} {
				if want := []string{natslog.Replaced.Reason}; !slices.Equal(r.lost, want) {
					t.Fatalf("was told %q", r.lost)
				}
				all := r.startTexts()
				if all = append(all, r.texts()...); strings.Join(all, " ") != "0 1 a b c d" {
					t.Errorf("the room has %q", all)
				}
				if r.IsLost(kept) || !r.IsLost(gone[0]) || !r.IsLost(gone[1]) || r.IsLost(r.EndID()) {
					t.Errorf("lost: %v %v %v %v", r.IsLost(kept), r.IsLost(gone[0]), r.IsLost(gone[1]), r.IsLost(r.EndID()))
				}
			}
			one.wantLogged(1, "is not what was read")
		})
	}
}

// A message that is no turn, and looks like an answer of JetStream or has a header that cannot be
// read, is skipped by those who hear it and by those who read it, wherever it is.
func TestMessagesThatLookLikeAnswers(t *testing.T) {
	for _, status := range []string{"404", "204", "503", "garbled"} {
		onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
			one := start(t, nats)
			ada := one.join("")
			strays := 0
			stray := func() {
				strays++
				m := &natslog.Message{Subject: "chat.lobby", Header: map[string][]string{"Status": {status}, "Nats-Msg-Id": {fmt.Sprint("stray.", strays)}}}
				if _, err := one.conn.Request(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				if status == "garbled" {
					nats.Garble("CHAT")
				}
			}
			stray()
			ada.say("one")
			ada.settle(2 * time.Second)
			nats.LoseSaid(3)
			stray()
			stray()
			ada.say("two")
			ada.settle(5 * time.Second)
			ada.want("one", "two")
			stray()
			ada.settle(2 * time.Second)
			late := start(t, nats).join("")
			late.settle(3 * time.Second)
			if late.start == nil || strings.Join(late.startTexts(), " ") != "one two" {
				t.Fatalf("%s: the room begins with %+v", status, late.start)
			}
			ada.say("three")
			late.settle(2 * time.Second)
			late.want("three")
			if n := one.conn.Reconnects(); n > 0 {
				t.Errorf("%s: connected anew %d times", status, n)
			}
		})
	}
}

// What is deleted just before a room is opened, and while it is read, counts as gone.
func TestWhatIsGoneWhileARoomIsRead(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		for n := range 900 {
			nats.Put("CHAT", "chat.lobby", fmt.Sprint("x.", n+1), []byte(`{"time":"2026-01-02T03:04:05.678Z","lines":[{"from":"f","text":"hello"}]}`))
		}
		time.Sleep(3 * time.Second)
		end := int64(nats.Last("CHAT"))*1000 + 999
		nats.SetPace(10 * time.Millisecond)
		lobby := one.join("")
		lobby.settle(2 * time.Second) // it reads the first 500
		nats.Purge("CHAT")
		nats.SetPace(0)
		team := one.join("team")
		lobby.settle(10 * time.Second)
		for _, r := range []*room{team, lobby} {
			if r.start == nil || r.start.GoneID != end || len(r.start.Messages) > 0 {
				t.Errorf("the room begins with %+.200v, and all up to %d is gone", r.start, end)
			}
		}
	})
}

// A room is not read from a node that lacks its last turns for long: another node is looked for.
func TestANodeThatLagsIsLeft(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		ada := one.join("")
		for range 3 {
			ada.say("hello")
			ada.settle(10 * time.Millisecond)
		}
		nats.Lag(2)
		late := one.Log("")
		defer late.Close()
		time.Sleep(5 * time.Second)
		if n := one.conn.Reconnects(); n < 1 || n > 2 {
			t.Errorf("connected anew %d times in five seconds", n)
		}
	})
}

// The stream is made anew, and is spoken in, before this server looks at it: its clients are
// disconnected once.
func TestTheStreamIsMadeAnewAndSpokenIn(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		ada := one.join("")
		ada.say("before")
		ada.settle(time.Second)
		config := strings.Replace(nats.Config("CHAT"), `"first_seq":`, `"first_seq":1`, 1)
		nats.Delete("CHAT")
		if _, err := one.conn.Request(t.Context(), &natslog.Message{Subject: "$JS.API.STREAM.CREATE.CHAT", Data: []byte(config)}); err != nil {
			t.Fatal(err)
		}
		ada.say("after")
		ada.settle(5 * time.Second)
		if want := []string{natslog.Replaced.Reason}; !slices.Equal(ada.lost, want) {
			t.Errorf("was told %q", ada.lost)
		}
		one.wantLogged(0, "while this server was away")
	})
}

// A node that lags and knows no leader is not believed: the stream may have more.
func TestANodeWithoutALeaderIsNotBelieved(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		ada := start(t, nats).join("")
		ada.say("one")
		ada.settle(100 * time.Millisecond)
		ada.say("two")
		ada.settle(time.Second)
		nats.Lag(1)
		nats.SetLeaderless(true)
		ada.settle(time.Minute)
		nats.SetLeaderless(false)
		nats.Lag(0)
		ada.say("three")
		ada.settle(5 * time.Second)
		ada.want("one", "two", "three")
		if len(ada.lost) == 0 || slices.Contains(ada.lost, natslog.Replaced.Reason) {
			t.Errorf("told %q", ada.lost)
		}
	})
}

// What was deleted at the stream's end is not waited for. A stream that has more than is
// heard of it has another node looked for.
func TestSilence(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		ada := one.join("")
		ada.say("hello")
		ada.settle(100 * time.Millisecond)
		other := start(t, nats).join("other")
		nats.LoseSaid(1)
		other.say("x")
		synctest.Wait()
		other.settle(5 * time.Millisecond)
		nats.DeleteLast("CHAT")
		ada.settle(5500 * time.Millisecond)
		if end := int64(nats.Last("CHAT"))*1000 + 999; ada.EndID() == end {
			t.Error("one look was enough: a new leader may lack the last turns for a moment")
		}
		ada.settle(2500 * time.Millisecond)
		if want := int64(nats.Last("CHAT"))*1000 + 999; ada.EndID() != want {
			t.Errorf("the room ends at %d, want %d", ada.EndID(), want)
		}
		if n := one.conn.Reconnects(); n != 0 {
			t.Errorf("another node was looked for %d times", n)
		}
		nats.Lag(100)
		nats.LoseSaid(1)
		other.say("y")
		other.settle(2 * time.Second)
		ada.settle(8 * time.Second)
		if one.conn.Reconnects() == 0 {
			t.Error("no other node was looked for")
		}
		one.wantLogged(2, "has more than is heard of it")
	})
}

// A node that is cut off from the others, and so has no leader, is left, also by a server
// that was never in contact.
func TestABadNodeIsLeft(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		time.Sleep(5 * time.Second)
		if n := one.conn.Reconnects(); n != 0 {
			t.Errorf("another node was looked for %d times before", n)
		}
		nats.SetLeaderless(true)
		late := start(t, nats)
		time.Sleep(7 * time.Second)
		for _, s := range []*server{one, late} {
			if n := s.conn.Reconnects(); n < 1 || n > 3 {
				t.Errorf("another node was looked for %d times", n)
			}
		}
	})
}

// Who is in a room elsewhere is told when it changes, and forgotten when a server says
// goodbye or is not heard for thirty seconds.
func TestPresence(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one, two, three := start(t, nats), start(t, nats), start(t, nats)
		here, there, silent := one.join("team"), two.join("team"), three.join("team")
		want := func(rosters ...presence.Roster) {
			t.Helper()
			got, changed := here.RemotePresence()
			slices.SortFunc(got, func(a, b presence.Roster) int { return a.Count - b.Count })
			if !changed || !slices.EqualFunc(got, rosters, func(a, b presence.Roster) bool { return a.Count == b.Count && maps.Equal(a.Names, b.Names) }) {
				t.Errorf("%v, changed: %v, want %v", got, changed, rosters)
			}
		}
		ada := presence.Roster{Count: 1, Names: map[string]string{"ada": "Ada"}}
		roster := presence.Roster{Count: 60}
		there.SetPresence(ada)
		silent.SetPresence(roster)
		time.Sleep(1500 * time.Millisecond)
		want(ada, roster)
		late := start(t, nats).join("team")
		time.Sleep(1500 * time.Millisecond)
		if rosters, _ := late.RemotePresence(); len(rosters) != 2 {
			t.Errorf("a server that starts hears of %v", rosters)
		}
		late.SetPresence(presence.Roster{Count: 2})
		time.Sleep(1500 * time.Millisecond)
		want(ada, presence.Roster{Count: 2}, roster)
		again := two.join("team") // opened again before it was closed
		again.SetPresence(ada)
		there.Close()
		time.Sleep(1500 * time.Millisecond)
		want(ada, presence.Roster{Count: 2}, roster)
		late.Close()
		time.Sleep(1500 * time.Millisecond)
		want(ada, roster)
		three.conn.SetCut(true)
		time.Sleep(20 * time.Second)
		want(ada, roster)
		time.Sleep(20 * time.Second)
		want(ada)
		two.Close()
		time.Sleep(10 * time.Millisecond)
		want()
	})
}

// What a server says of who is where fits into a message of NATS, however long names are in JSON.
func TestPresenceIsBounded(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		longest := 0
		other := nats.Connect()
		defer other.Close()
		other.Subscribe("chat-here", func(m *natslog.Message) { longest = max(longest, len(m.Data)) })
		roster := presence.Roster{Count: presence.MaxNames, Names: make(map[string]string)}
		for i := range presence.MaxNames {
			roster.Names[fmt.Sprintf("%032x", i)] = strings.Repeat("<", 32)
		}
		for i := range 100 {
			one.join(fmt.Sprint("room-", i)).SetPresence(roster)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if longest < 256<<10 || longest > 1<<20 {
			t.Errorf("the longest message has %d bytes", longest)
		}
	})
}

// A turn that the stream refuses for its size is a matter of its room alone.
func TestATurnThatIsTooLarge(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		one := start(t, nats)
		nats.SetMaxMsgSize("CHAT", 1000)
		ada, bob := one.join(""), one.join("team")
		ada.say(strings.Repeat("x", 2000))
		ada.settle(30 * time.Second)
		if len(ada.lost) != 1 || !one.Await(t.Context(), 0) {
			t.Errorf("the room was told %q; within reach: %v", ada.lost, one.Await(t.Context(), 0))
		}
		bob.say("hello")
		bob.settle(time.Second)
		bob.want("hello")
	})
}

// What no server can say of who is where is ignored, and the rest of the same message counts.
func TestPresenceThatCannotBe(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		here := start(t, nats).join("team")
		stranger := nats.Connect()
		defer stranger.Close()
		say := func(text string) {
			if err := stranger.Publish("chat-here", []byte(text)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		many := ""
		for i := range presence.MaxNames {
			many += fmt.Sprintf(`,"%x":"Ada"`, i)
		}
		for i, roster := range []string{
			`{}`, `null`, `{"count":0}`, `{"count":-1}`, `{"count":4611686018427387904}`,
			`{"count":1,"names":{"` + strings.Repeat("a", 100_000) + `":"Ada"}}`,
			`{"count":1,"names":{"\u0001<":"Ada"}}`,
			`{"count":51,"names":{"":""` + many + `}}`,
		} {
			say(fmt.Sprintf(`{"server":"s%d","rooms":{"team":%s}}`, i, roster))
			if rosters, _ := here.RemotePresence(); len(rosters) != 0 {
				t.Errorf("%.100s makes %.100v", roster, rosters)
			}
		}
		for _, text := range []string{``, `null`, `[]`, `{}`, `{"server":7}`, `{"rooms":[]}`, `{"server":"s","rooms":null}`, `{"server":"s","rooms":{"team":[]}}`, "\xff"} {
			say(text)
		}
		say(`{"server":"s","rooms":{"team":{"count":1,"names":{"ada":"A\u202eda"}},"other":{"count":-1}},"more":1}`)
		if rosters, _ := here.RemotePresence(); len(rosters) != 1 || rosters[0].Names["ada"] != "Ada" {
			t.Errorf("%v", rosters)
		}
	})
}

// What NATS says against a setting is logged at once.
func TestAStreamThatCannotBeMade(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		nats.Refuse("replicas > 1 not supported in non-clustered mode")
		s := start(t, nats)
		time.Sleep(5 * time.Second)
		s.wantLogged(1, "is out of reach: replicas > 1 not supported in non-clustered mode")
		if s.Await(t.Context(), time.Second) {
			t.Error("the stream is within reach")
		}
		time.Sleep(15 * time.Second)
		s.wantLogged(3, "is out of reach: replicas > 1 not supported in non-clustered mode") // once in ten seconds
		nats.Refuse("")
		time.Sleep(time.Second)
		if !s.Await(t.Context(), 0) {
			t.Error("the stream is out of reach")
		}
	})
}

// A log that is closed leaves its turn to nobody, and a stream that is closed ends, whatever
// the engine does.
func TestClosingEndsEverything(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		s := &server{t: t, conn: nats.Connect(), counts: make(map[string]int)}
		nats.SetAway(true)
		s.Stream = natslog.OpenOn(s.conn, natslog.Options{Replicas: 1}, s)
		never := s.Log("")
		time.Sleep(time.Second)
		if s.Await(context.Background(), time.Second) {
			t.Error("the stream is within reach")
		}
		never.Close()
		s.Close()
		nats.SetAway(false)

		one := start(t, nats)
		ada := one.join("")
		one.conn.SetCut(true)
		ada.say("hello")
		time.Sleep(time.Second)
		ada.Close()
		begin := time.Now()
		time.Sleep(time.Second)
		if one.UnackedTurns() != 0 || time.Since(begin) > 2*time.Second {
			t.Error("the turn is still under way")
		}
	})
}

// A frozenEngine takes ten seconds for what is written.
type frozenEngine struct{ *natstest.Conn }

func (e frozenEngine) Publish(subject string, data []byte) error {
	time.Sleep(10 * time.Second)
	return e.Conn.Publish(subject, data)
}

// Closing waits no longer than it may for a node that is frozen.
func TestClosingDoesNotWaitForAFrozenNode(t *testing.T) {
	onFakeTime(t, func(t *testing.T, nats *natstest.NATS) {
		s := &server{t: t, counts: make(map[string]int)}
		s.Stream = natslog.OpenOn(frozenEngine{nats.Connect()}, natslog.Options{Replicas: 1}, s)
		begin := time.Now()
		s.Stream.Close(300 * time.Millisecond)
		if took := time.Since(begin); took != 300*time.Millisecond {
			t.Errorf("took %v", took)
		}
		s.wantLogged(1, "could not be closed in time")
		time.Sleep(20 * time.Second) // then everything is closed all the same
	})
}
