/* A library that knows nothing of longshore but this: a completion port's packet may carry the
 * address of a function and one word for it. The conformance suite loads it. */
#include <windows.h>

static volatile LONG calls;
static volatile ULONG_PTR last_word;

static void note(ULONG_PTR word) {
    last_word = word;
    InterlockedIncrement(&calls);
}

__declspec(dllexport) ULONG_PTR poster_callback(void) {
    return (ULONG_PTR)note;
}

__declspec(dllexport) BOOL poster_post(HANDLE port, ULONG_PTR word) {
    return PostQueuedCompletionStatus(port, 0, (ULONG_PTR)note, (LPOVERLAPPED)word);
}

__declspec(dllexport) LONG poster_calls(void) {
    return calls;
}

__declspec(dllexport) ULONG_PTR poster_last_word(void) {
    return last_word;
}
