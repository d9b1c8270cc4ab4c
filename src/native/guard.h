// No exception leaves an extern "C" function: each returns 0, or 1 with the message kept for ddpm_last_error()
// on the same thread.

#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace ddpm {

inline thread_local std::string last_error;

template <typename F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& e) {
    last_error = e.what_without_backtrace();
  } catch (const std::exception& e) {
    last_error = e.what();
  } catch (...) {
    last_error = "unknown C++ exception";
  }
  return 1;
}

}  // namespace ddpm
