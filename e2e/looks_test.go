package e2e

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// How it looks, and whether everyone can use it.

const axeVersion = "4.14.1"

// axe returns the source of axe-core, which npm has fetched, now or before.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	file := filepath.Join(cache, "chat-e2e", "axe-core-"+axeVersion+".js")
	source, err := os.ReadFile(file)
	if err == nil {
		return string(source)
	}
	source, err = fetchAxe(t.TempDir())
	if err != nil {
		t.Fatalf("fetching axe-core %s with npm: %v", axeVersion, err)
	}
	// All of it or nothing: another run may be reading.
	err = os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(fmt.Sprint(file, os.Getpid()), source, 0o644)
	}
	if err == nil {
		err = os.Rename(fmt.Sprint(file, os.Getpid()), file)
	}
	if err != nil {
		t.Logf("axe-core is not kept: %v", err)
	}
	return string(source)
}

func fetchAxe(folder string) ([]byte, error) {
	pack := exec.Command("npm", "pack", "--silent", "axe-core@"+axeVersion)
	pack.Dir = folder
	if out, err := pack.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v\n%s", err, out)
	}
	f, err := os.Open(filepath.Join(folder, "axe-core-"+axeVersion+".tgz"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if err != nil {
			return nil, fmt.Errorf("axe.min.js: %v", err)
		}
		if header.Name == "package/axe.min.js" {
			return io.ReadAll(files)
		}
	}
}

type device struct {
	name          string
	width, height int64
	phone         bool
}

var devices = []device{
	{"desk", 1024, 720, false},
	{"phone", 390, 780, true},
}

// Axe finds nothing, whatever the page is showing.
func TestAccessible(t *testing.T) {
	source := axe(t)
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	look[any](ada, "(() => {"+source+"})()")
	check := func(scene string) {
		t.Helper()
		ada.wantAccessibleOn(devices, scene)
	}
	check("an empty room")

	ada.say("Is this on?")
	ada.byRole("button", "Choose a name").focus()
	check("a guest is offered a name")
	ada.byRole("textbox", "Your name").selectAll()
	ada.insert(strings.Repeat("too long ", 5))
	check("the name is too long")
	ada.press("Escape")
	ada.rename("Ada")
	bob.rename("Bob")
	bob.say("Have you read https://www.w3.org/TR/WCAG22/?")
	ada.say("Not all of it.")
	ada.wantState("Not all of it.", "back")
	ada.wantNames("Ada", "Bob")
	ada.hide(true)
	bob.say("Which part, Ada?", "`1.4.3`:\n```\ncontrast >= 4.5\n```")
	ada.want("both have come", "texts().length === 5")
	ada.hide(false)
	ada.write("@")
	check("Ada is named and back, and writes a name")
	ada.box().selectAll()
	ada.byRole("button", "2 online").click()
	ada.byRole("button", "Mute Bob").click()
	check("who is here, and one is muted")
	ada.byRole("button", "Mute Bob").click()
	ada.byRole("button", "Invite").click()
	check("the link to the room")
	ada.byRole("button", "Rooms: The lobby").click()
	check("rooms, and what else the page can do")
	ada.press("Escape")
	look[any](ada, "setHasEarlier(true)")
	check("there are earlier messages")
	look[any](ada, "setHasEarlier(false)")
	ada.write(strings.Repeat("too long ", 500))
	check("people talk, and one writes too much")

	ada.box().selectAll()
	ada.insert("in the tunnel")
	ada.press("Enter")
	ada.line.cut()
	ada.say("still in it")
	ada.wantStatus("no connection")
	check("the line is cut")
}

// So it is with what messages look like, with what is said before sending, and on a phone that lies on its side.
func TestMessagesAreAccessible(t *testing.T) {
	source := axe(t)
	chat := startChat(t)
	ada, bob := chat.open(), chat.open()
	look[any](ada, "(() => {"+source+"})()")
	screens := append(devices, device{"phone on its side, with a keyboard", 667, 187, true})
	bob.rename("Bob")
	bob.say("`x` and\n```\n"+strings.Repeat("wide ", 60)+"\n```\nand so on", "🎉🎉", "www.example.org",
		strings.Join(numbered(100, "line"), "\n"), "ل `x`\nhello")
	ada.want("all has come", "texts().length === 5")
	ada.wantAccessibleOn(screens, "code and a folded message")
	ada.byRole("button", "Show all").click()
	ada.wantAccessibleOn(screens, "a long message")
	ada.write(strings.Repeat("a line\n", 1000))
	ada.wantAccessibleOn(screens, "what goes out as two messages")
	ada.box().selectAll()
	ada.insert(strings.Repeat("x", 4000))
	ada.wantAccessibleOn(devices, "almost too long")
	ada.box().selectAll()
	ada.insert("x")
	look[any](ada, `void (() => {
		const files = new DataTransfer();
		files.items.add(new File(['x'], 'x.png'));
		document.dispatchEvent(new DragEvent('drop', { dataTransfer: files, cancelable: true }));
	})()`)
	ada.wantAccessibleOn(devices, "a file is not sent")
	look[any](ada, "one('#rooms').click()")
	look[any](ada, "one('#wanted').focus()")
	ada.insert("our team!")
	ada.press("Enter")
	ada.wantAccessibleOn(devices, "another name for a room is proposed")
	ada.visit(ada.url + "?room=no%20room")
	ada.want("it says so", "visible(one('#no-room'))")
	look[any](ada, "(() => {"+source+"})()")
	ada.wantAccessibleOn(devices, "no room of that name")
}

// wantAccessibleOn fails the test if axe finds something on any of the screens, in light or in the dark.
func (p *tab) wantAccessibleOn(screens []device, scene string) {
	p.t.Helper()
	for _, d := range screens {
		for _, scheme := range []string{"light", "dark"} {
			p.device(d.width, d.height, d.phone, scheme)
			p.wantAccessible(fmt.Sprintf("%s, %s, %s", scene, d.name, scheme))
		}
	}
}

func (p *tab) wantAccessible(scene string) {
	p.t.Helper()
	found := look[[]string](p, `axe.run(document).then(result => result.violations.flatMap(violation => violation.nodes.map(node =>
		violation.id + ': ' + violation.help + ': ' + node.html + '\n\t' + node.failureSummary)))`)
	for _, violation := range found {
		p.t.Errorf("%s: %s", scene, violation)
	}
}

// A conversation as the README shows it.
func TestPictures(t *testing.T) {
	chat := startChat(t)
	ada, bob, eve := chat.open(), chat.open(), chat.open()
	ada.rename("Ada")
	bob.rename("Bob")
	eve.rename("Eve")
	ada.wantNames("Ada", "Bob", "Eve")
	said := []struct {
		by   *tab
		text string
	}{
		{ada, "Good morning! Is the projector in room 4 working again?"},
		{bob, "It is, I have just tried it."},
		{bob, "The slides are at http://files.local/talk.pdf"},
		{eve, "Then the build: `go test ./...` stops at"},
		{eve, "```\nfunc main() {\n\tif err := run(); err != nil {\n\t\tlog.Fatal(err)\n\t}\n}\n```"},
		{bob, "Ada, could you look?"},
		{ada, "Sure. I was in a tunnel, what did I miss?"},
		{eve, "Nothing. It is all here."},
	}
	var texts []string
	for _, line := range said {
		line.by.say(line.text)
		texts = append(texts, strings.TrimSpace(strings.ReplaceAll(line.text, "`", "")))
		for _, p := range []*tab{ada, bob, eve} {
			p.wantLines(texts...)
		}
	}
	if !*update {
		return
	}
	for file, d := range map[string]device{"light": devices[0], "dark": devices[1]} {
		ada.device(d.width, d.height, d.phone, file)
		ada.want("it is drawn", "new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(() => resolve(true))))")
		ada.must(ada.picture(filepath.Join("screenshots", file+"-"+d.name+".png")))
	}
}
