// Runs before the first paint, so that a chosen theme never flashes the other one. A file, because of the CSP.
(function () {
  var chosen = null;
  try {
    chosen = localStorage.getItem("gridwire.theme");
  } catch (_) {
    // Storage may be forbidden; the system's preference then decides.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
