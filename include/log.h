/* log: lines for the operator, on stderr. Every line begins with its owner's tag. Never holds a key or a request's text raw. */
#ifndef LOG_H
#define LOG_H
#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
/* One line; control bytes in the text are replaced. With $JOURNAL_STREAM set, "<N>" goes before it (sd-daemon(3)). */
void log_line(enum log_level level, const char *tag, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_error(tag, ...) log_line(LOG_ERROR, tag, __VA_ARGS__)
#define log_warn(tag, ...)  log_line(LOG_WARN, tag, __VA_ARGS__)
#define log_info(tag, ...)  log_line(LOG_INFO, tag, __VA_ARGS__)
#define log_debug(tag, ...) (log_enabled(LOG_DEBUG) ? log_line(LOG_DEBUG, tag, __VA_ARGS__) : (void)0)
#endif
