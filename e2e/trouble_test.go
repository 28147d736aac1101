package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// What happens on a train ride: lines cut, answers lost, the server gone and back.
// Nothing may be missing, and nothing may be there twice. Where something must not
// come, the tests wait for a later message, before which it would have come.

func TestTwentyLinesWhileTheLineWasCut(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.say("before")
	bob.wantLines("before")

	bob.line.cut()
	bob.wantStatus("connection")
	said := numbered(20, "in the tunnel")
	ada.say(said...)
	bob.line.mend()
	bob.wake()
	bob.wantConnected()

	ada.say("after")
	bob.wantLines(slices.Concat([]string{"before"}, said, []string{"after"})...)
}

// Who was here before gets more than a newcomer, and where even that is not all, is
// told so.
func TestMuchWasSaidWhileTheLineWasCut(t *testing.T) {
	chat := startChat(t, "-rate", "0")
	bob, robot := chat.open(), chat.joinProgram("")
	robot.say("before")
	bob.wantLines("before")
	bob.line.cut()
	some := numbered(100, "some")
	robot.say(some...)
	robot.wantHeard("some 100")
	bob.line.mend()
	bob.wake()
	bob.wantLines(slices.Concat([]string{"before"}, some)...)
	bob.want("no word of anything missing", "notes().length === 0")

	bob.line.cut()
	many := numbered(600, "many")
	robot.say(many...)
	robot.wantHeard("many 600")
	bob.line.mend()
	bob.wake()
	bob.wantNote("missing")
	bob.wantLines(slices.Concat([]string{"before"}, some, many[100:])...)
}

func TestTypedWhileCutGoesOutOnce(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()

	ada.line.cut()
	ada.say("in the tunnel", "still in it")
	ada.wantState("in the tunnel", "waiting|sent")
	bob.say("where is ada?")
	bob.wantLines("where is ada?")
	ada.line.mend()
	ada.wantState("in the tunnel", "back")
	ada.wantState("still in it", "back")

	before := ada.line.opened()
	ada.line.interrupt()
	eventually(t, "another connection", func() bool { return ada.line.opened() > before })
	ada.wantConnected()
	ada.say("out again")
	bob.wantLines("where is ada?", "in the tunnel", "still in it", "out again")
	ada.wantLines("where is ada?", "in the tunnel", "still in it", "out again")
}

// The server has heard the line, and its answer is lost on the way.
func TestAnswerSwallowed(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()

	ada.line.swallowAnswers()
	ada.say("heard?")
	bob.wantLines("heard?")
	bob.say("yes")
	ada.line.mend()
	ada.line.interrupt()
	ada.wantState("heard?", "back")

	ada.say("good")
	bob.wantLines("heard?", "yes", "good")
	ada.wantLines("heard?", "yes", "good")
}

// The same, and the page is loaded again before it knows.
func TestAnswerSwallowedThenReloaded(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()

	ada.line.swallowAnswers()
	ada.say("heard?")
	bob.wantLines("heard?")
	ada.line.mend()
	ada.reload()
	ada.wantState("heard?", "back")

	ada.say("good")
	bob.wantLines("heard?", "good")
	ada.wantLines("heard?", "good")
}

// A draft and a line that waits outlive the page.
func TestReloadWhileCut(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.line.cut()
	ada.say("in the tunnel")
	ada.write("a draft")
	ada.wantState("in the tunnel", "waiting")
	ada.line.mend()
	ada.reload()
	bob.wantLines("in the tunnel")
	ada.wantState("in the tunnel", "back")
	if got := ada.box().value(); got != "a draft" {
		t.Errorf("the box holds %q", got)
	}
}

// Two people talk while their lines fail in every way, again and again. In the end
// both have read the same, and everything once.
func TestTrainRide(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.hurry(10)
	bob.hurry(10)
	random := rand.New(rand.NewPCG(20, 26))
	said := numbered(60, "stop")
	for i, text := range said {
		p := []*tab{ada, bob}[i%2]
		switch random.IntN(6) {
		case 0:
			p.line.cut()
		case 1:
			p.line.swallowAnswers()
		case 2:
			p.line.interrupt()
		case 3:
			p.line.mend()
			p.line.interrupt()
			p.wake()
		}
		p.say(text)
	}
	for _, p := range []*tab{ada, bob} {
		p.line.mend()
		p.line.interrupt()
	}
	for _, p := range []*tab{ada, bob} {
		p.want("everything is there", fmt.Sprintf(
			"lines().filter(line => !line.matches('.own') || line.dataset.state === 'back').length >= %d", len(said)))
	}
	order := look[[]string](ada, "texts()")
	bob.wantLines(order...)
	slices.Sort(order)
	slices.Sort(said)
	if !slices.Equal(order, said) {
		t.Errorf("shown is %s", difference(order, said))
	}
}

// The server is gone without a word, comes back in the same place and remembers
// nothing. Those who were there have everything, once.
func TestKilledAndStartedAgain(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.say("before")
	bob.wantLines("before")
	ada.line.swallowAnswers()
	ada.say("heard?") // by bob, but she cannot know, and the next server cannot either
	bob.wantLines("before", "heard?")

	chat.kill()
	ada.wantStatus("no connection")
	ada.say("while it was gone")
	ada.line.mend()
	chat.startAgain()
	ada.wantConnected()
	bob.wantConnected()
	ada.wantState("heard?", "back")
	ada.wantState("while it was gone", "back")
	bob.wantNote("missing|missed")

	bob.say("here again")
	ada.wantLines("before", "heard?", "while it was gone", "here again")
	bob.wantLines("before", "heard?", "while it was gone", "here again")
	ada.wantOnline(2)
}

// With history on disk, a server that is killed comes back with everything: those who were
// there, one who reloads and one who is new see the same lines, with the same names and tags,
// whoever was there the same colours, and nobody is told that something is missing.
func TestKilledWithHistoryOnDisk(t *testing.T) {
	chat := startChat(t, "-history", t.TempDir())
	ada, bob, carl := chat.open(), chat.open(), chat.open()
	ada.rename("Sam")
	bob.rename("Sam")
	ada.wantConnected()
	bob.wantConnected()
	ada.say("before")
	bob.wantLines("before")
	bob.say("me too")
	ada.wantLines("before", "me too")
	const looks = `JSON.stringify(lines().map(line => {
		const who = line.querySelector('.who');
		return [who.textContent, textOf(line.querySelector('.text'))];
	}))`
	carl.wantLines("before", "me too")
	const colours = "lines().map(line => getComputedStyle(line.querySelector('.who')).color).join()"
	before, coloursBefore := look[string](carl, looks), look[string](carl, colours)
	if strings.Count(before, "Sam·") != 2 {
		t.Errorf("two of one name are shown as %s", before)
	}

	chat.kill()
	ada.wantStatus("no connection")
	chat.startAgain()
	ada.wantConnected()
	bob.wantConnected()
	carl.wantConnected()
	bob.reload()
	bob.wantConnected()
	dora := chat.open()
	for _, p := range []*tab{ada, bob, carl, dora} {
		p.wantLines("before", "me too")
		p.want("nobody else's line is its own", "lines().filter(line => line.matches('.own')).length === "+map[*tab]string{ada: "1", bob: "1", carl: "0", dora: "0"}[p])
		if after := look[string](p, looks); p != ada && p != bob && after != before {
			t.Errorf("was %s, is %s", before, after)
		}
		if look[bool](p, "/missing|missed/i.test(document.body.innerText)") {
			t.Error("somebody is told that messages are missing")
		}
	}
	if after := look[string](carl, colours); after != coloursBefore {
		t.Errorf("the colours were %s, are %s", coloursBefore, after)
	}
	bob.say("after")
	ada.wantLines("before", "me too", "after")
	ada.wantOnline(4)
}

// The server says that it stops, and the page says so.
func TestStopIsExplained(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.say("before")
	ada.wantState("before", "back")
	chat.stop()
	ada.wantNote("the server is stopping")
	ada.wantStatus("no connection")
	ada.say("kept")
	ada.wantState("kept", "waiting")
	chat.startAgain()
	ada.wake()
	ada.wantState("kept", "back")
}

// The connection opens, and then nothing comes, not even who one is: the page
// does not wait for ever.
func TestHelloNeverComes(t *testing.T) {
	chat := startChat(t)
	ada := chat.open()
	ada.hurry(10)
	before := ada.line.opened()
	ada.line.swallowAnswers()
	ada.line.interrupt()
	ada.say("anybody?")
	eventually(t, "a second attempt", func() bool { return ada.line.opened() >= before+2 })
	ada.wantState("anybody?", "waiting|sent")
	ada.line.mend()
	ada.wantState("anybody?", "back")
	ada.wantLines("anybody?")
}

// A line that is dead without a word, as when a phone leaves the network: the page
// hears no more that the server is there, and hangs up itself.
func TestDeadWithoutAWord(t *testing.T) {
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	ada.hurry(20)
	before := ada.line.opened()
	ada.line.swallowAnswers()
	bob.say("can you hear me?")
	eventually(t, "another attempt", func() bool { return ada.line.opened() > before })
	ada.line.mend()
	ada.wantLines("can you hear me?")
}
