/// \file
/// Where descriptors that close themselves used to be.
#pragma once

#include "experiments/base/fd.h"
