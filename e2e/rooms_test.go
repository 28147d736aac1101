package e2e

import (
	"strings"
	"testing"
)

// Rooms: each is a page of its own.

// openRoom lets a new person come to a room.
func (c *chat) openRoom(room string) *tab {
	c.t.Helper()
	l := newLine(c.t, c.addr)
	p := newPerson(c.t)
	p.line = l
	p.visit("http://" + l.addr + "/?room=" + room)
	p.wantConnected()
	return p
}

func TestTwoInOneRoomAndOneInAnother(t *testing.T) {
	chat := startChat(t)
	ada, bob, carl, dora := chat.openRoom("team"), chat.openRoom("Team"), chat.openRoom("other"), chat.open()
	for p, room := range map[*tab]string{ada: "team", bob: "team", carl: "other"} {
		p.want("the room is named", "document.title.includes("+quoted(room)+") && textOf(one('h1')).includes("+quoted(room)+")")
	}
	carl.want("it says that nobody has said anything", "/nobody has said anything/i.test(document.body.innerText)")
	ada.say("in here")
	bob.wantLines("in here")
	bob.say("yes")
	ada.wantLines("in here", "yes")
	carl.say("elsewhere")
	dora.say("in the lobby")
	carl.wantLines("elsewhere")
	dora.wantLines("in the lobby")
	ada.wantLines("in here", "yes")
}

// A draft and what waits stay in their room, and Back leads there.
func TestAnotherRoomAndBack(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.openRoom("team"), chat.openRoom("other")
	ada.write("a draft for the team")
	ada.byRole("button", "Rooms: team").click()
	look[any](ada, "one('#wanted').focus()")
	ada.insert("other")
	ada.press("Enter")
	ada.writing = element{}
	ada.want("the other room", "new URLSearchParams(location.search).get('room') === 'other'")
	ada.wantConnected()
	if got := ada.box().value(); got != "" {
		t.Errorf("the box holds %q", got)
	}
	ada.say("hello, others")
	bob.wantLines("hello, others")

	look[any](ada, "history.back()")
	ada.writing = element{}
	ada.want("back", "new URLSearchParams(location.search).get('room') === 'team' && document.readyState === 'complete'")
	ada.wantConnected()
	if got := ada.box().value(); got != "a draft for the team" {
		t.Errorf("the box holds %q", got)
	}
}

// A proposed room cannot be guessed, and is another one each time.
func TestProposedRoom(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.byRole("button", "Rooms: The lobby").click()
	first := look[string](ada, "one('#new-room').href")
	look[any](ada, "one('#doors').hidePopover()")
	ada.byRole("button", "Rooms: The lobby").click()
	ada.want("another proposal", "one('#new-room').href !== "+quoted(first))
	ada.byRole("link", "A new private room").click()
	ada.writing = element{}
	ada.want("a room of four words", `/^([a-z]{5}-){3}[a-z]{5}$/.test(new URLSearchParams(location.search).get('room'))`)
	ada.wantConnected()
}

// A name that no room can have is explained, not just refused.
func TestNoSuchRoom(t *testing.T) {
	chat := startChat(t)
	ada := newPerson(t)
	ada.visit("http://" + chat.addr + "/?room=" + strings.Repeat("x", 33))
	ada.want("it says what names may look like", "/letters, digits/.test(document.body.innerText) && visible(one('#no-room'))")
	ada.byRole("link", "Go to the lobby").click()
	ada.writing = element{}
	ada.wantConnected()
}
