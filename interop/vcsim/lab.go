package main

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// A rule is what happens to the next calls of a method.
type rule struct {
	Method string            // as in RegisterVM_Task; PUT, GET: files; NFC: uploads
	Action string            // fault, task-fault, task-wait, delay, drop, drop-after, status; an upload's wait
	Fault  string            // type of the fault
	Fields map[string]string // of the fault
	Millis int               // of a wait
	Bytes  int64             // of an upload, before its connection is cut
	Status int
	Times  int
	Skip   int // calls that pass before the first
}

type upload struct {
	File, Method, Type, Overwrite, Cookie string
	Bytes, Length                         int64
}

type lease struct {
	entity   types.ManagedObjectReference
	last     time.Time
	percents []string
	ended    string
}

type lab struct {
	client  *govmomi.Client
	mux     *http.ServeMux
	stores  stores
	dir     string
	timeout time.Duration

	lock     sync.Mutex
	rules    []*rule
	calls    map[string]int
	order    []string
	cookies  map[string]bool // open sessions
	ended    map[string]bool // sessions that the server forgot
	logins   int
	logouts  int
	denied   map[string]bool
	uploads  []upload
	leases   map[string]*lease
	requests map[string]string
	guest    *guest // nil without -machine
}

func newLab(c *govmomi.Client, mux *http.ServeMux, s stores, dir string, timeout time.Duration) *lab {
	l := &lab{client: c, mux: mux, stores: s, dir: dir, timeout: timeout, calls: map[string]int{}, cookies: map[string]bool{},
		ended: map[string]bool{}, denied: map[string]bool{}, leases: map[string]*lease{}, requests: map[string]string{}}
	go l.watchLeases()
	return l
}

var (
	methodPattern = regexp.MustCompile(`<(?:\w+:)?Body[^>]*><(?:\w+:)?(\w+)`)
	pathPattern   = regexp.MustCompile(`<path>\[([^\]]*)\] ([^<]*)</path>`)
	pathsPattern  = regexp.MustCompile(`<name>\[([^\]]*)\] ([^<]*)</name>`)
	specPattern   = regexp.MustCompile(`<adapterType>([^<]*)</adapterType><capacityKb>(\d+)<`)
	namePattern   = regexp.MustCompile(`<name>([^<]*)</name>`)
	leasePattern  = regexp.MustCompile(`type="HttpNfcLease">([^<]+)<`)
	taskPattern   = regexp.MustCompile(`type="Task"[^>]*>([^<]+)<`)
)

const sessionCookie = "vmware_soap_session"

// take finds the rule for a method and counts it down.
func (l *lab) take(method string) *rule {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.calls[method]++
	l.order = append(l.order, method)
	for i, r := range l.rules {
		if r.Method == method {
			if r.Skip > 0 {
				r.Skip--
				continue
			}
			if r.Times--; r.Times <= 0 {
				l.rules = append(l.rules[:i], l.rules[i+1:]...)
			}
			return r
		}
	}
	return nil
}

func cut(w http.ResponseWriter) {
	if connection, _, err := w.(http.Hijacker).Hijack(); err == nil {
		connection.Close()
	}
}

func (l *lab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cookie := ""
	if c, err := r.Cookie(sessionCookie); err == nil {
		cookie = strings.Trim(c.Value, `"`)
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/folder/"):
		l.folder(w, r, cookie)
	case strings.HasPrefix(r.URL.Path, "/nfc/"):
		l.nfc(w, r, cookie)
	default:
		l.sdk(w, r, cookie)
	}
}

func (l *lab) open(cookie string) bool {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.cookies[cookie] && !l.ended[cookie]
}

// folder serves files of datastores to whoever has a session, as a real server does.
func (l *lab) folder(w http.ResponseWriter, r *http.Request, cookie string) {
	rule := l.take(r.Method)
	if !l.open(cookie) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if rule != nil && rule.Action == "wait" {
		time.Sleep(time.Duration(rule.Millis) * time.Millisecond)
	}
	if rule != nil && rule.Action == "status" {
		w.WriteHeader(rule.Status)
		return
	}
	if rule != nil && rule.Action == "drop" {
		_, _ = io.CopyN(io.Discard, r.Body, rule.Bytes)
		cut(w)
		return
	}
	l.mux.ServeHTTP(w, r)
}

// nfc keeps what is uploaded. Leases are known by their address: no cookie is needed.
func (l *lab) nfc(w http.ResponseWriter, r *http.Request, cookie string) {
	rule := l.take("NFC")
	parts := strings.Split(r.URL.Path, "/")
	if rule != nil && rule.Action == "wait" {
		// Takes nothing and closes nothing.
		time.Sleep(time.Duration(rule.Millis) * time.Millisecond)
	}
	l.lock.Lock()
	held := l.leases[parts[2]]
	dead := held == nil || held.ended != ""
	l.lock.Unlock()
	if dead {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if rule != nil && rule.Action == "status" {
		w.WriteHeader(rule.Status)
		return
	}
	name := filepath.Join(l.dir, parts[2]+"-"+parts[len(parts)-1])
	file, err := os.Create(name)
	must(err)
	defer file.Close()
	source := io.Reader(r.Body)
	if rule != nil && rule.Action == "drop" {
		source = io.LimitReader(source, rule.Bytes)
	}
	n, err := io.Copy(file, source)
	l.lock.Lock()
	l.uploads = append(l.uploads, upload{File: name, Method: r.Method, Type: r.Header.Get("Content-Type"),
		Overwrite: r.Header.Get("Overwrite"), Cookie: cookie, Bytes: n, Length: r.ContentLength})
	l.lock.Unlock()
	if rule != nil && rule.Action == "drop" || err != nil {
		cut(w)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (l *lab) sdk(w http.ResponseWriter, r *http.Request, cookie string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	method := ""
	if found := methodPattern.FindSubmatch(body); found != nil {
		method = string(found[1])
	}
	rule := l.take(method)
	l.lock.Lock()
	l.requests[method] = string(body)
	if l.ended[cookie] {
		// The simulator's own session goes on; nobody can name it any more.
		r.Header.Del("Cookie")
	}
	l.lock.Unlock()
	if rule != nil && rule.Millis > 0 && rule.Action != "task-wait" {
		time.Sleep(time.Duration(rule.Millis) * time.Millisecond)
	}
	if rule != nil && rule.Action == "drop" {
		cut(w)
		return
	}
	answer := l.answer(method, rule, r, body)
	l.note(method, body, answer, cookie)
	if rule != nil && rule.Action == "drop-after" {
		cut(w)
		return
	}
	text := importKeys(answer.Body.String())
	if method == "HasPrivilegeOnEntities" {
		text = l.deny(text)
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.Code)
	_, _ = io.WriteString(w, text)
}

func (l *lab) answer(method string, rule *rule, r *http.Request, body []byte) *httptest.ResponseRecorder {
	action := ""
	if rule != nil {
		action = rule.Action
	}
	switch action {
	case "fault":
		return faultAnswer(rule)
	case "status":
		answer := httptest.NewRecorder()
		answer.WriteHeader(rule.Status)
		return answer
	case "task-fault":
		run := func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
			time.Sleep(time.Duration(rule.Millis) * time.Millisecond)
			return nil, madeFault(rule)
		}
		return l.task(method, run)
	case "task-wait":
		run := func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
			time.Sleep(time.Duration(rule.Millis) * time.Millisecond)
			real := l.pass(method, r, body)
			found := taskPattern.FindStringSubmatch(real.Body.String())
			if found == nil {
				return nil, &types.InvalidState{}
			}
			done := simulator.Map.Get(types.ManagedObjectReference{Type: "Task", Value: found[1]}).(*simulator.Task)
			if done.Info.Error != nil {
				return nil, done.Info.Error.Fault.(types.BaseMethodFault)
			}
			return done.Info.Result, nil
		}
		return l.task(method, run)
	}
	return l.pass(method, r, body)
}

// pass asks the simulator itself. Its RegisterVM_Task wants files that no backup has; a host of today makes them.
func (l *lab) pass(method string, r *http.Request, body []byte) *httptest.ResponseRecorder {
	if method == "RegisterVM_Task" {
		path, name := pathPattern.FindSubmatch(body), namePattern.FindSubmatch(body)
		if path != nil && name != nil {
			store := l.stores[html.UnescapeString(string(path[1]))]
			at := filepath.Dir(filepath.Join(store, html.UnescapeString(string(path[2]))))
			for _, wanted := range []string{html.UnescapeString(string(name[1])) + ".nvram", "vmware.log"} {
				if file, err := os.OpenFile(filepath.Join(at, wanted), os.O_CREATE|os.O_EXCL, 0o600); err == nil {
					file.Close()
					defer os.Remove(file.Name())
				}
			}
		}
	}
	if method == "MakeDirectory" {
		// The simulator takes a directory that is there.
		if path := pathsPattern.FindSubmatch(body); path != nil {
			name := html.UnescapeString(string(path[2]))
			if _, err := os.Stat(filepath.Join(l.stores[html.UnescapeString(string(path[1]))], name)); err == nil {
				return faultAnswer(&rule{Fault: "FileAlreadyExists", Fields: map[string]string{"file": name}})
			}
		}
	}
	answer := l.replay(r, body)
	if method == "CreateSnapshot_Task" {
		l.snapshotMade(body)
	}
	if method == "CreateVirtualDisk_Task" {
		l.diskMade(body)
	}
	if method == "ReconfigVM_Task" && l.guest != nil {
		l.guest.changed()
	}
	return answer
}

// diskMade gives a disk that was made alone its size and its descriptor, which the simulator leaves empty.
func (l *lab) diskMade(body []byte) {
	path, spec := pathsPattern.FindSubmatch(body), specPattern.FindSubmatch(body)
	if path == nil || spec == nil {
		return
	}
	descriptor := filepath.Join(l.stores[html.UnescapeString(string(path[1]))], html.UnescapeString(string(path[2])))
	flat := strings.TrimSuffix(descriptor, ".vmdk") + "-flat.vmdk"
	if info, err := os.Stat(flat); err != nil || info.Size() > 0 {
		return // refused, or somebody else's
	}
	kib, _ := strconv.ParseInt(string(spec[2]), 10, 64)
	must(os.Truncate(flat, kib<<10))
	text := "# Disk DescriptorFile\ncreateType=\"vmfs\"\nRW %d VMFS \"%s\"\nddb.adapterType = \"%s\"\n"
	must(os.WriteFile(descriptor, []byte(fmt.Sprintf(text, kib*2, filepath.Base(flat), strings.ToLower(string(spec[1])))), 0o600))
}

// note follows sessions and leases.
func (l *lab) note(method string, body []byte, answer *httptest.ResponseRecorder, cookie string) {
	l.lock.Lock()
	defer l.lock.Unlock()
	switch method {
	case "Login":
		for _, c := range answer.Result().Cookies() {
			if c.Name == sessionCookie {
				l.cookies[strings.Trim(c.Value, `"`)] = true
				l.logins++
			}
		}
	case "Logout":
		if l.cookies[cookie] {
			delete(l.cookies, cookie)
			l.logouts++
		}
	case "ImportVApp":
		if found := leasePattern.FindStringSubmatch(answer.Body.String()); found != nil {
			l.leases[found[1]] = &lease{last: time.Now()}
		}
	case "HttpNfcLeaseProgress", "HttpNfcLeaseAbort", "HttpNfcLeaseComplete":
		found := leasePattern.FindSubmatch(body)
		if found == nil || l.leases[string(found[1])] == nil {
			return
		}
		held := l.leases[string(found[1])]
		held.last = time.Now()
		switch method {
		case "HttpNfcLeaseProgress":
			if percent := regexp.MustCompile(`<percent>(\d+)<`).FindSubmatch(body); percent != nil {
				held.percents = append(held.percents, string(percent[1]))
			}
		case "HttpNfcLeaseAbort":
			held.ended = "aborted"
		case "HttpNfcLeaseComplete":
			held.ended = "complete"
		}
	}
}

// watchLeases ends a lease that makes no progress.
func (l *lab) watchLeases() {
	for range time.Tick(100 * time.Millisecond) {
		l.lock.Lock()
		for _, held := range l.leases {
			if held.ended == "" && time.Since(held.last) > l.timeout {
				held.ended = "timed out"
			}
		}
		l.lock.Unlock()
	}
}

func (l *lab) deny(text string) string {
	l.lock.Lock()
	defer l.lock.Unlock()
	for privilege := range l.denied {
		text = regexp.MustCompile(`(<privId>`+regexp.QuoteMeta(privilege)+`</privId><isGranted>)true`).
			ReplaceAllString(text, "${1}false")
	}
	return text
}

// task answers with a task of our own that is running by then.
func (l *lab) task(method string, run func(*simulator.Task) (types.AnyType, types.BaseMethodFault)) *httptest.ResponseRecorder {
	any := simulator.Map.Any("Folder")
	made := simulator.CreateTask(any, method, run)
	go made.Run()
	answer := httptest.NewRecorder()
	fmt.Fprintf(answer, envelope, fmt.Sprintf(`<%sResponse xmlns="urn:vim25"><returnval type="Task">%s</returnval></%sResponse>`,
		method, made.Self.Value, method))
	return answer
}

const envelope = `<?xml version="1.0"?><Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/" ` +
	`xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><Body>%s</Body></Envelope>`

func faultAnswer(r *rule) *httptest.ResponseRecorder {
	fields := ""
	for name, value := range r.Fields {
		fields += "<" + name + ">" + html.EscapeString(value) + "</" + name + ">"
	}
	answer := httptest.NewRecorder()
	answer.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(answer, envelope, fmt.Sprintf(`<Fault><faultcode>ServerFaultCode</faultcode><faultstring>Made by the lab.</faultstring>`+
		`<detail><%sFault xmlns="urn:vim25" xsi:type="%s">%s</%sFault></detail></Fault>`, r.Fault, r.Fault, fields, r.Fault))
	return answer
}

// madeFault makes a fault of the API's own type.
func madeFault(r *rule) types.BaseMethodFault {
	kind, ok := types.TypeFunc()(r.Fault)
	if !ok {
		return &types.RuntimeFault{}
	}
	made := reflect.New(kind)
	for name, value := range r.Fields {
		if field := made.Elem().FieldByName(strings.ToUpper(name[:1]) + name[1:]); field.IsValid() && field.Kind() == reflect.String {
			field.SetString(value)
		}
	}
	return made.Interface().(types.BaseMethodFault)
}

var (
	entityPattern = regexp.MustCompile(`<entity type="VirtualMachine"[^>]*>([^<]+)<`)
	keyPattern    = regexp.MustCompile(`<importKey>/[^<]*/disk:(\d+)</importKey>`)
)

// importKeys names disks as a real lease does, by controller and unit; the simulator counts them.
func importKeys(text string) string {
	entity := entityPattern.FindStringSubmatch(text)
	if entity == nil {
		return text
	}
	vm, ok := simulator.Map.Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: entity[1]}).(*simulator.VirtualMachine)
	if !ok {
		return text
	}
	devices := object.VirtualDeviceList(vm.Config.Hardware.Device)
	disks := devices.SelectByType((*types.VirtualDisk)(nil))
	return keyPattern.ReplaceAllStringFunc(text, func(key string) string {
		n, _ := strconv.Atoi(keyPattern.FindStringSubmatch(key)[1])
		if n >= len(disks) {
			return key
		}
		disk := disks[n].GetVirtualDevice()
		controller := devices.FindByKey(disk.ControllerKey).(types.BaseVirtualController)
		kind := fmt.Sprintf("%T", controller)[len("*types."):]
		return fmt.Sprintf("<importKey>/%s/%s%d:%d</importKey>", vm.Name, kind, controller.GetVirtualController().BusNumber, *disk.UnitNumber)
	})
}
