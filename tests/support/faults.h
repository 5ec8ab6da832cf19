/// \file
/// Network faults as tests ask for them.
#pragma once

#include <cstdint>

#include "experiments/base/clock.h"
#include "experiments/base/ids.h"
#include "squall/v1/faults.pb.h"

namespace squall::support {

/// A network fault on one port, of everything that comes by, for a minute.
inline v1::Fault network_fault(std::uint16_t port, v1::Direction direction = v1::EGRESS) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(std::chrono::minutes(1)).count());
  v1::PortRange& range = *fault.mutable_network()->mutable_to()->add_ports();
  range.set_first(port);
  range.set_last(port);
  fault.mutable_network()->set_direction(direction);
  return fault;
}

inline v1::Fault delay_fault(std::uint16_t port, Duration delay,
                             v1::Direction direction = v1::EGRESS) {
  v1::Fault fault = network_fault(port, direction);
  fault.mutable_network()->set_delay(delay.count());
  return fault;
}

inline v1::Fault loss_fault(std::uint16_t port, double percent,
                            v1::Direction direction = v1::EGRESS) {
  v1::Fault fault = network_fault(port, direction);
  fault.mutable_network()->set_loss(percent);
  return fault;
}

/// What the field becomes instead of one number, in the field's own unit.
inline void add_ramp(v1::Fault& fault, const std::string& field, double from, double to,
                     Duration over) {
  v1::Ramp& ramp = *fault.add_ramps();
  ramp.set_field(field);
  ramp.set_from(from);
  ramp.set_to(to);
  ramp.set_over(over.count());
}

/// A duration as a ramp's number.
inline double number_of(Duration duration) { return static_cast<double>(duration.count()); }

}  // namespace squall::support
