package grpckv

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Versions of the sample.
const (
	oldest = 1
	newest = 3
)

// serviceOf returns the name of a version's service.
func serviceOf(version int) string {
	if version < 3 {
		return "kv.v1.Store"
	}
	return "kv.v3.Entries"
}

// describe returns the service of a version.
func describe(version int) (*grpc.ServiceDesc, error) {
	d := &grpc.ServiceDesc{ServiceName: serviceOf(version), HandlerType: (*any)(nil)}
	d.Streams = []grpc.StreamDesc{{StreamName: "List", ServerStreams: true, Handler: list}}
	switch version {
	case 1:
		d.Methods = []grpc.MethodDesc{unary("Get", get), unary("Set", set), unary("Clear", clearAll)}
	case 2:
		d.Methods = []grpc.MethodDesc{unary("Get", get), unary("Set", set), unary("Clear", clearAll), unary("Delete", remove)}
	case 3:
		d.Methods = []grpc.MethodDesc{unary("Read", get), unary("Write", set), unary("Remove", take), unary("Swap", swap)}
	default:
		return nil, fmt.Errorf("there is no version %d of the gRPC sample, only %d to %d", version, oldest, newest)
	}
	return d, nil
}

// unary describes a method that f carries out.
func unary[Req any, Message interface {
	*Req
	proto.Message
}](name string, f func(*Store, Message) (proto.Message, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := Message(new(Req))
		if err := decode(in); err != nil {
			return nil, err
		}
		return f(srv.(*Store), in)
	}}
}

func get(s *Store, key *wrapperspb.StringValue) (proto.Message, error) {
	value, ok := s.Get(key.GetValue())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "there is no key %q", key.GetValue())
	}
	return wrapperspb.String(value), nil
}

func set(s *Store, pair *structpb.Struct) (proto.Message, error) {
	key, value, err := unpack(pair)
	if err != nil {
		return nil, err
	}
	if err := s.Change(func(values map[string]string) error { values[key] = value; return nil }); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func clearAll(s *Store, _ *emptypb.Empty) (proto.Message, error) {
	if err := s.Change(func(values map[string]string) error { clear(values); return nil }); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func remove(s *Store, key *wrapperspb.StringValue) (proto.Message, error) {
	if _, err := take(s, key); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func take(s *Store, key *wrapperspb.StringValue) (proto.Message, error) {
	var taken string
	err := s.Change(func(values map[string]string) error {
		value, ok := values[key.GetValue()]
		if !ok {
			return status.Errorf(codes.NotFound, "there is no key %q", key.GetValue())
		}
		taken = value
		delete(values, key.GetValue())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return wrapperspb.String(taken), nil
}

func swap(s *Store, in *structpb.Struct) (proto.Message, error) {
	key, value, err := unpack(in)
	if err != nil {
		return nil, err
	}
	old := in.GetFields()["old"].GetStringValue()
	err = s.Change(func(values map[string]string) error {
		if values[key] != old {
			return status.Errorf(codes.FailedPrecondition, "key %q has another value", key)
		}
		values[key] = value
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func list(srv any, stream grpc.ServerStream) error {
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	for _, key := range srv.(*Store).Keys() {
		if err := stream.SendMsg(wrapperspb.String(key)); err != nil {
			return err
		}
	}
	return nil
}

// maxText is of a key or a value, in bytes.
const maxText = 1 << 20

func pack(key, value string) (*structpb.Struct, error) {
	return structpb.NewStruct(map[string]any{"key": key, "value": value})
}

func unpack(pair *structpb.Struct) (key, value string, err error) {
	key, value = pair.GetFields()["key"].GetStringValue(), pair.GetFields()["value"].GetStringValue()
	if key == "" || len(key) > maxText || len(value) > maxText {
		return "", "", status.Errorf(codes.InvalidArgument, "want a key, and at most %d bytes of it and of its value", maxText)
	}
	return key, value, nil
}
