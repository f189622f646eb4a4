"use strict";
// Links Flower's page of a task to the page of its job, if there is one.
(() => {
  const root = document.currentScript.dataset.root;
  const place = document.getElementById("taskid");
  const id = place ? place.textContent : "";
  if (!id) return;
  const way = encodeURIComponent(id);
  fetch(`${root}/api/jobs/${way}`, { headers: { Accept: "application/json" }, redirect: "error" })
    .then((answer) => {
      if (!answer.ok) return;
      const link = document.createElement("a");
      link.href = `${root}/${way}`;
      link.id = "jk-job-link";
      link.className = "btn btn-outline-primary btn-sm";
      link.textContent = "Job";
      const actions = document.querySelector(".detail-actions");
      if (actions) actions.prepend(link);
      else place.after(link);
    })
    .catch(() => undefined);
})();
