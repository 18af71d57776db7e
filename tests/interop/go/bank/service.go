package bank

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
)

var background = context.Background()

// Order is what a branch is asked to do.
type Order struct {
	Account string `json:"account"`
	Amount  int    `json:"amount"`
}

// Proto is the same as a protobuf message.
func (o Order) Proto() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		"account": structpb.NewStringValue(o.Account),
		"amount":  structpb.NewNumberValue(float64(o.Amount)),
	}}
}

func orderOf(message *structpb.Struct) Order {
	fields := message.GetFields()
	return Order{Account: fields["account"].GetStringValue(), Amount: int(fields["amount"].GetNumberValue())}
}

// Request is one call of a branch.
type Request struct {
	Order
	// Body is what came over HTTP.
	Body []byte
	// Barrier knows whose branch it is.
	Barrier *dtmcli.BranchBarrier
	// Query and Header are set over HTTP.
	Query  url.Values
	Header http.Header
	// Context has the metadata over gRPC.
	Context context.Context
	// Answer is what a handler answers over HTTP instead of the client's word for success.
	Answer interface{}
}

// XaLocal runs an XA branch: both of its phases come to the same address.
func (r *Request) XaLocal(conf dtmcli.DBConf, work func(db *sql.DB) error) error {
	if r.Query != nil {
		return dtmcli.XaLocalTransaction(r.Query, conf, func(db *sql.DB, _ *dtmcli.Xa) error { return work(db) })
	}
	return dtmgrpc.XaLocalTransaction(r.Context, conf, func(db *sql.DB, _ *dtmgrpc.XaGrpc) error { return work(db) })
}

// Handler does the work of a branch. Its error is answered as the client's own helpers translate it.
type Handler func(*Request) error

// Call is a call that arrived.
type Call struct {
	// Name is that of the handler.
	Name string
	// Branch is "branch_id-op".
	Branch string
	// At is when it arrived.
	At time.Time
	// Header has the headers over HTTP.
	Header http.Header
	// Metadata has the metadata over gRPC.
	Metadata metadata.MD
}

// Service is a participant that is reached over HTTP and over gRPC, and writes down each call.
type Service struct {
	httpAddr, grpcAddr string
	listener           net.Listener
	// GRPCServer is open for more services until ServeGRPC is called; a call of theirs is traced by the name of the service.
	GRPCServer *grpc.Server

	mutex    sync.Mutex
	handlers map[string]Handler
	before   map[string][]func() error
	after    map[string][]func() error
	calls    map[string][]Call
}

func empty() *Service {
	return &Service{
		handlers: map[string]Handler{},
		before:   map[string][]func() error{},
		after:    map[string][]func() error{},
		calls:    map[string][]Call{},
	}
}

// NewService starts one for the whole test program.
func NewService() *Service {
	s := empty()
	s.GRPCServer = grpc.NewServer(grpc.UnknownServiceHandler(s.serveGRPC), grpc.UnaryInterceptor(s.traceGRPC))
	listener := listen()
	s.httpAddr = listener.Addr().String()
	go func() { _ = http.Serve(listener, http.HandlerFunc(s.serveHTTP)) }()
	s.listener = listen()
	s.grpcAddr = s.listener.Addr().String()
	return s
}

// ServeGRPC starts to serve gRPC too.
func (s *Service) ServeGRPC() {
	go func() { _ = s.GRPCServer.Serve(s.listener) }()
}

// ServeAlsoAt serves the same handlers over gRPC at one more address, until the answer is called.
func (s *Service) ServeAlsoAt(t *testing.T, address string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	Must(t, err)
	server := grpc.NewServer(grpc.UnknownServiceHandler(s.serveGRPC))
	go func() { _ = server.Serve(listener) }()
	return server.Stop
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return listener
}

// HTTP is the address of a handler over HTTP.
func (s *Service) HTTP(name string) string { return "http://" + s.httpAddr + "/" + name }

// GRPC is the address of a handler over gRPC.
func (s *Service) GRPC(name string) string { return s.grpcAddr + "/interop.Bank/" + name }

// GRPCHost is the address of the gRPC server.
func (s *Service) GRPCHost() string { return s.grpcAddr }

// Handle adds a handler.
func (s *Service) Handle(name string, handler Handler) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.handlers[name] = handler
}

// Before runs a hook before each of the coming calls of a handler for a transaction; its error is answered instead of doing the work.
func (s *Service) Before(gid, name string, hooks ...func() error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.before[gid+" "+name] = hooks
}

// After runs a hook after the work; its error is answered although the work was done.
func (s *Service) After(gid, name string, hooks ...func() error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.after[gid+" "+name] = hooks
}

// Answers is a hook that answers an error.
func Answers(err error) func() error { return func() error { return err } }

// Calls are the calls for a transaction so far.
func (s *Service) Calls(gid string) []Call {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return append([]Call(nil), s.calls[gid]...)
}

// Trace is the order of the calls so far: "mysql.out 01-action".
func (s *Service) Trace(gid string) string {
	var all []string
	for _, call := range s.Calls(gid) {
		all = append(all, call.Name+" "+call.Branch)
	}
	return strings.Join(all, ", ")
}

// Expect asserts the order of the calls.
func (s *Service) Expect(t *testing.T, gid string, calls ...string) {
	t.Helper()
	Equal(t, "calls", s.Trace(gid), strings.Join(calls, ", "))
}

// UntilCalls waits until that many calls have arrived.
func (s *Service) UntilCalls(t *testing.T, gid string, n int) {
	t.Helper()
	Until(t, fmt.Sprintf("%d calls of %s", n, gid), func() bool { return len(s.Calls(gid)) >= n })
}

func next(hooks map[string][]func() error, key string) func() error {
	queue := hooks[key]
	if len(queue) == 0 {
		return func() error { return nil }
	}
	hooks[key] = queue[1:]
	return queue[0]
}

func (s *Service) handle(name string, r *Request) error {
	b := r.Barrier
	s.mutex.Lock()
	handler := s.handlers[name]
	call := Call{Name: name, Branch: b.BranchID + "-" + b.Op, At: time.Now(), Header: r.Header}
	if r.Context != nil {
		call.Metadata, _ = metadata.FromIncomingContext(r.Context)
	}
	s.calls[b.Gid] = append(s.calls[b.Gid], call)
	before, after := next(s.before, b.Gid+" "+name), next(s.after, b.Gid+" "+name)
	s.mutex.Unlock()
	if handler == nil {
		return fmt.Errorf("nobody handles %s", name)
	}
	if err := before(); err != nil {
		return err
	}
	if err := handler(r); err != nil {
		return err
	}
	return after()
}

func (s *Service) serveHTTP(w http.ResponseWriter, request *http.Request) {
	r := &Request{Query: request.URL.Query(), Header: request.Header, Answer: dtmcli.MapSuccess}
	err := s.handleHTTP(request, r)
	code, answer := dtmcli.Result2HttpJSON(err)
	if err == nil {
		answer = r.Answer
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Service) handleHTTP(request *http.Request, r *Request) (err error) {
	if r.Barrier, err = dtmcli.BarrierFromQuery(r.Query); err != nil {
		return err
	}
	r.Body, err = io.ReadAll(request.Body)
	if err == nil && len(r.Body) > 0 {
		err = json.Unmarshal(r.Body, &r.Order)
	}
	if err != nil {
		return err
	}
	return s.handle(strings.TrimPrefix(request.URL.Path, "/"), r)
}

func (s *Service) serveGRPC(_ interface{}, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	name, ours := strings.CutPrefix(method, "/interop.Bank/")
	if !ours {
		return status.Errorf(codes.Unimplemented, "no method %s", method)
	}
	var message structpb.Struct
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	barrier, err := dtmgrpc.BarrierFromGrpc(stream.Context())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	err = s.handle(name, &Request{Order: orderOf(&message), Barrier: barrier, Context: stream.Context()})
	if err != nil {
		return dtmgrpc.DtmError2GrpcError(err)
	}
	return stream.SendMsg(&emptypb.Empty{})
}

func (s *Service) traceGRPC(ctx context.Context, message interface{}, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (interface{}, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(info.FullMethod, "/"), ".")
	if barrier, err := dtmgrpc.BarrierFromGrpc(ctx); err == nil {
		s.mutex.Lock()
		s.calls[barrier.Gid] = append(s.calls[barrier.Gid], Call{Name: name, Branch: barrier.BranchID + "-" + barrier.Op, At: time.Now()})
		s.mutex.Unlock()
	}
	return next(ctx, message)
}
