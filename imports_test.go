package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Dependencies run one way: from each of these files only to those in the same line or
// further down. Hub and Client know each other (deliver.go and log.go are theirs, too): that
// pair is the pattern.
var fileOrder = [][]string{
	{"main.go"},
	{"server.go"},
	{"rooms.go"},
	{"hub.go", "client.go", "deliver.go", "log.go"},
	{"batch.go"},
}

func TestFilesDependOneWay(t *testing.T) {
	level := map[string]int{}
	for i, names := range fileOrder {
		for _, name := range names {
			level[name] = i
		}
	}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		if _, ok := level[path]; !ok {
			t.Errorf("%s has no place in the order of files", path)
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	// Without the packages that are imported there are errors, but what is declared here
	// is resolved.
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: noPackages{}, Error: func(error) {}}
	config.Check("chat", fset, files, &info)
	edges := 0
	for id, object := range info.Uses {
		from, to := fset.Position(id.Pos()).Filename, fset.Position(object.Pos()).Filename
		if object.Pkg() == nil || object.Pkg().Path() != "chat" || from == to || to == "" {
			continue
		}
		edges++
		if level[from] > level[to] {
			t.Errorf("%s uses %s of %s", fset.Position(id.Pos()), id.Name, to)
		}
	}
	if edges < 50 {
		t.Errorf("only %d uses of another file's declarations were found", edges)
	}
}

// noPackages stands for all packages that are imported.
type noPackages struct{}

func (noPackages) Import(path string) (*types.Package, error) {
	pkg := types.NewPackage(path, path[strings.LastIndexByte(path, '/')+1:])
	pkg.MarkComplete()
	return pkg, nil
}

// Packages below internal are leaves: each imports these of ours, and of others' none but
// those named.
var imports = map[string][]string{
	"chat/internal/access":    {},
	"chat/internal/address":   {},
	"chat/internal/backlog":   {},
	"chat/internal/budget":    {},
	"chat/internal/connlimit": {},
	"chat/internal/cork":      {},
	"chat/internal/filelog":   {"chat/internal/history", "chat/internal/protocol"},
	"chat/internal/history":   {"chat/internal/protocol"},
	"chat/internal/inbound":   {"chat/internal/cork", "chat/internal/protocol"},
	"chat/internal/metrics":   {"chat/internal/protocol"},
	"chat/internal/natslog":   {"chat/internal/history", "chat/internal/presence", "chat/internal/protocol", "github.com/nats-io/nats.go", "github.com/nats-io/nats.go/micro"},
	"chat/internal/natstest":  {"chat/internal/natslog"},
	"chat/internal/page":      {},
	"chat/internal/presence":  {"chat/internal/protocol"},
	"chat/internal/protocol":  {},
	"chat/internal/queue":     {},
	"chat/internal/ratelog":   {},
	"chat/internal/socket":    {},
	"chat/internal/wstest":    {"chat/internal/protocol"},
}

func TestPackagesAreLeaves(t *testing.T) {
	list := func(args ...string) []string {
		out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	isOurs := func(path string) bool { return strings.HasPrefix(path, "chat/") }
	isOthers := func(path string) bool { // begins with a host, which the standard library does not
		host, _, _ := strings.Cut(path, "/")
		return strings.Contains(host, ".")
	}
	for _, line := range list("-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./internal/...") {
		pkg, rest, _ := strings.Cut(line, " ")
		allowed, ok := imports[pkg]
		if !ok {
			t.Errorf("%s is not among the packages whose imports are known", pkg)
		}
		for _, path := range strings.Fields(rest) {
			if (isOurs(path) || isOthers(path)) && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", pkg, path)
			}
		}
	}
	for _, path := range strings.Fields(list("-f", "{{join .Imports \" \"}}", ".")[0]) {
		if isOthers(path) && path != "github.com/gorilla/websocket" {
			t.Errorf("the server imports %s", path)
		}
	}
	server := list("-deps", ".")
	for pkg := range imports {
		isForTests := strings.HasSuffix(pkg, "test")
		if slices.Contains(server, pkg) == isForTests {
			t.Errorf("%s is for tests: %v, and the server imports it: %v", pkg, isForTests, !isForTests)
		}
	}
}

// The server requires two modules. What else is in go.mod, these bring along.
func TestRequirements(t *testing.T) {
	out, err := exec.Command("go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	if want := []string{"github.com/gorilla/websocket", "github.com/nats-io/nats.go"}; !slices.Equal(direct, want) {
		t.Errorf("go.mod requires %v, want %v", direct, want)
	}
}
