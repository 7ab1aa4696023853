/*
 * A simulation object in C, without a library: callers of version 1 write
 * PUT /v1/{key} {"name": …}, version 2 knows PUT /v2/{key} {"title": …}, and the
 * other way round in its answers. The JSON is scanned once and not parsed.
 *
 *	clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o names.wasm names.c
 */

typedef unsigned int u32;
typedef unsigned long long u64;

#define HTTP(name) __attribute__((import_module("http_handler"), import_name(#name)))
#define MOULT(name) __attribute__((import_module("moult"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

HTTP(enable_features) u32 enable_features(u32 features);
HTTP(get_uri) u32 get_uri(char *buf, u32 limit);
HTTP(set_uri) void set_uri(const char *uri, u32 len);
HTTP(read_body) u64 read_body(u32 kind, char *buf, u32 limit);
HTTP(write_body) void write_body(u32 kind, const char *body, u32 len);
HTTP(get_status_code) u32 get_status_code(void);
MOULT(deny) void deny(u32 status, const char *reason, u32 len);

enum { REQUEST, RESPONSE };

static char in[256 << 10], uri[8 << 10];

/* read_all reads a body; it returns its length, or -1 if it is too long. */
static int read_all(u32 kind)
{
	u32 n = 0;
	for (;;) {
		if (n == sizeof in)
			return -1;
		u64 r = read_body(kind, in + n, sizeof in - n);
		n += (u32)r;
		if (r >> 32)
			return (int)n;
	}
}

static int equal(const char *a, const char *b, u32 n)
{
	for (u32 i = 0; i < n; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* rename_body reads a body and writes it with the fields from of its outermost
 * object renamed. A body without any stays as it is. */
static int rename_body(u32 kind, const char *from, u32 from_len, const char *to, u32 to_len)
{
	int size = read_all(kind);
	if (size < 0)
		return 0;
	u32 n = (u32)size, written = 0, depth = 0;
	int key = 0;
	for (u32 i = 0; i < n; i++) {
		switch (in[i]) {
		case '{': key = ++depth == 1; break;
		case '[': depth++; key = 0; break;
		case '}': case ']': depth--; break;
		case ',': key = depth == 1; break;
		case ':': key = 0; break;
		case '"': {
			u32 start = ++i;
			while (i < n && in[i] != '"')
				i += in[i] == '\\' ? 2 : 1;
			if (key && i < n && i - start == from_len && equal(in + start, from, from_len)) {
				write_body(kind, in + written, start - written);
				write_body(kind, to, to_len);
				written = i;
			}
		}
		}
	}
	if (written)
		write_body(kind, in + written, n - written);
	return 1;
}

EXPORT(_initialize) void initialize(void) { enable_features(2); }

EXPORT(handle_request) u64 handle_request(void)
{
	static const char large[] = "the value is too large for this object";
	u32 n = get_uri(uri, sizeof uri);
	if (n > sizeof uri || n < 4 || !equal(uri, "/v1/", 4))
		return 1;
	uri[2] = '2';
	set_uri(uri, n);
	if (!rename_body(REQUEST, "name", 4, "title", 5)) {
		deny(413, large, sizeof large - 1);
		return 0;
	}
	return 1;
}

EXPORT(handle_response) void handle_response(u32 context, u32 failed)
{
	static const char large[] = "the answer is too large for this object";
	if (failed || get_status_code() != 200)
		return;
	if (!rename_body(RESPONSE, "title", 5, "name", 4))
		deny(502, large, sizeof large - 1);
}
