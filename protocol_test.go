package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/presence"
	"chat/internal/wstest"
)

// What clients of both protocols send and receive.

// What a client sends, and what a client of each protocol receives, byte by byte. Fake time
// begins at midnight of 2000-01-01, and so do ids; "from" is the sender's own.
func TestBothProtocols(t *testing.T) {
	const start = 946684800000000
	for _, row := range []struct {
		what, query string // of the sender; it speaks chat.v1, or classic if the query says so
		send        string
		classic, v1 string // "" for nothing
	}{
		{"a text", "", `{"text":"hello"}`,
			`hello`, `"name":"guest","text":"hello"}`},
		{"a text after a name", "name=Ada", `{"text":"hello"}`,
			`Ada: hello`, `"name":"Ada","text":"hello"}`},
		{"a ref", "", `{"text":"hello","ref":"a1"}`,
			`hello`, `"name":"guest","text":"hello","ref":"a1"}`},
		{"unknown fields", "", ` {"text":"hello","color":"red","ref":null}`,
			`hello`, `"name":"guest","text":"hello"}`},
		{"markup", "name=<i>", `{"text":"<b>&amp;</b>"}`,
			`<i>: <b>&amp;</b>`, `"name":"<i>","text":"<b>&amp;</b>"}`},
		{"quotes and backslashes", `name="\`, `{"text":"\"\\"}`,
			`"\: "\`, `"name":"\"\\","text":"\"\\"}`},
		{"line breaks and controls", "", `{"text":"one\ntwo\u0000\u2028\u0085three\t"}`,
			`one two   three`, `"name":"guest","text":"one\ntwo \n three"}`},
		{"a paste from Windows", "", `{"text":"\r\nif x {\r\n\treturn\r\n}\r\n"}`,
			"if x {  return }", `"name":"guest","text":"if x {\n\treturn\n}"}`},
		{"indentation", "name=Ada", `{"text":" \n    one\n\n\ttwo \n "}`,
			"Ada: one   two", `"name":"Ada","text":"    one\n\n\ttwo"}`},
		{"escapes", "", `{"text":"\u0063af\u00e9 \ud83d\ude00 \ud83d"}`,
			"café 😀 \ufffd", "\"name\":\"guest\",\"text\":\"café 😀 \ufffd\"}"},
		{"other scripts", "name=%D7%A2%D7%93%D7%94", `{"text":"שלום"}`,
			`עדה: שלום`, `"name":"עדה","text":"שלום"}`},
		{"a blank text", "", `{"text":" \n "}`, ``, ``},
		{"no text", "", `{"ref":"a1"}`, ``, ``},
		{"from the classic protocol", "classic", `hello`,
			`hello`, `"name":"guest","text":"hello"}`},
		{"lines from the classic protocol", "classic", "\tone\r\ntwo\u2028",
			`one  two`, `"name":"guest","text":"one  two"}`},
		{"from the classic protocol, with a name", "classic&name=Ada", `{"text":"hello"}`,
			`Ada: {"text":"hello"}`, `"name":"Ada","text":"{\"text\":\"hello\"}"}`},
	} {
		onFakeTime(t, row.what, func(t *testing.T) {
			chat := startChat(t)
			ada, v1 := chat.join(""), chat.joinV1("name=witness")
			v1.take("")
			var from string
			if name, ok := strings.CutPrefix(row.query, "classic"); ok {
				chat.join(strings.TrimPrefix(name, "&")).say(row.send)
			} else {
				speaker := chat.joinV1(strings.NewReplacer(`"`, "%22", `\`, "%5c", "<", "%3c", ">", "%3e").Replace(row.query))
				from = speaker.hello().From
				speaker.send(row.send)
			}
			if row.classic == "" {
				ada.want()
				v1.want()
				return
			}
			ada.want(row.classic)
			messages := v1.take("message")
			if len(messages) != 1 {
				t.Fatalf("%d messages", len(messages))
			}
			if from == "" {
				from = messages[0].From
			}
			want := fmt.Sprintf(`{"type":"message","id":%d,"time":"2000-01-01T00:00:00.000Z","from":"%s",%s`, start+1, from, row.v1)
			if got := messages[0].Line; got != want {
				t.Errorf("on chat.v1\n%s, want\n%s", got, want)
			}
		})
	}
}

// A client that asks for no subprotocol that is known here speaks the classic protocol.
func TestSubprotocols(t *testing.T) {
	for asked, want := range map[string]string{
		"":                   "",
		"chat.v2":            "",
		"CHAT.V1":            "",
		"chat.v1":            "chat.v1",
		"chat.v2, chat.v1":   "chat.v1",
		"chat.v1,superchat ": "chat.v1",
	} {
		synctest.Test(t, func(t *testing.T) {
			chat := startChat(t)
			resp, _ := chat.ask(wstest.Handshake("chat.test", "/ws", asked))
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); resp.StatusCode != http.StatusSwitchingProtocols || got != want {
				t.Errorf("%q is answered with %s and %q, want %q", asked, resp.Status, got, want)
			}
		})
	}
}

// The hello says who the client is; "from" is the same for a key, on this server alone.
func TestHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.joinV1("name=+Ada%0a&key=k1").hello()
		if ada.Room == nil || *ada.Room != "" || ada.Name != "Ada" || ada.Max != 4096 || ada.Missed || len(ada.From) != 16 {
			t.Errorf("%+v", ada)
		}
		again, other := chat.joinV1("name=Ada&key=k1").hello(), chat.joinV1("name=Ada&key=k2").hello()
		if again.From != ada.From || other.From == ada.From {
			t.Error("from does not tell keys apart")
		}
		nobody, nobodyElse := chat.joinV1("").hello(), chat.joinV1("").hello()
		if nobody.Name != "guest" || nobody.From == nobodyElse.From {
			t.Error("from does not tell apart those without a key")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a, b := newServer(nil, 0, 1), newServer(nil, 0, 1)
		if a.userID("k1") == b.userID("k1") {
			t.Error("from is the same on every server")
		}
	})
}

// Clients of chat.v1 are told who is online when that changes, and now and then if it does
// not. How often is tested in package presence.
func TestOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.joinV1("name=Ada&key=a")
		wantOnline(t, ada, 1, "Ada")
		time.Sleep(2 * time.Second)
		ada.take("online")

		bob, _ := chat.joinV1("name=Bob"), chat.join("name=Carl")
		chat.joinV1("name=Ada&key=a") // another connection of the same user
		wantOnline(t, bob, 2, "Ada", "Bob")
		time.Sleep(time.Second)
		wantOnline(t, ada, 3, "Ada", "Bob", "Carl")
		time.Sleep(time.Second)
		wantOnline(t, ada, 0) // unchanged
		time.Sleep(presence.Heartbeat)
		wantOnline(t, ada, 3, "Ada", "Bob", "Carl")

		bob.leave()
		time.Sleep(time.Second)
		wantOnline(t, ada, 2, "Ada", "Carl")
	})

	// "froms" and "names" are in step, whatever order the user ids have. A user with several
	// connections and names has one entry: the name that was given last.
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		names := map[string]string{} // by user id
		for i := range 20 {
			name := fmt.Sprint("user ", i%7)
			names[chat.joinV1(fmt.Sprintf("name=%s&key=%d", url.QueryEscape(name), i)).hello().From] = name
		}
		again := chat.joinV1("name=Renamed&key=3")
		names[again.hello().From] = "Renamed"
		online := again.take("online")[0]
		if len(names) != 20 || online.Count != 20 || len(online.Froms) != 20 || !slices.IsSorted(online.Names) {
			t.Errorf("%+v", online)
		}
		for i, from := range online.Froms {
			if online.Names[i] != names[from] {
				t.Errorf("%s is said to be %q, and is %q", from, online.Names[i], names[from])
			}
		}
	})
}

// wantOnline fails the test unless the client was told once who is online, or for count 0
// not at all.
func wantOnline(t *testing.T, p *person, count int, names ...string) {
	t.Helper()
	online := p.take("online")
	if count == 0 && len(online) == 0 {
		return
	}
	if len(online) != 1 || online[0].Count != count || !slices.Equal(online[0].Names, names) || len(online[0].Froms) != len(names) {
		t.Errorf("told %+v, want %d: %q", online, count, names)
	}
}
